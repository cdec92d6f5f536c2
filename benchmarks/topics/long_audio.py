"""Peak memory of the worker for an hour of audio, compared with ten minutes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from benchmarks.audio import sparse
from benchmarks.bench_run import BenchRun, Client
from benchmarks.measure import MIB, Finding, Runs, Watch, at_most
from whisper_inference.worker.resident import resident_of

NAME = "long-audio"
TITLE = "Memory of the worker over long audio"
_LOOK_SECONDS = 0.2


def run(bench: BenchRun) -> Generator[Finding]:
    """Transcribe both with a new worker each, and compare the peaks."""
    shorter, longer = (120, 240) if bench.quick else (600, 3600)
    with bench.server() as client:
        peaks = {seconds: _peak(client, sparse(bench.audio, seconds)) for seconds in (shorter, longer)}
    raw = tuple(Runs.of(f"peak over {seconds} s of audio", "MiB", [peak]) for seconds, (peak, _) in peaks.items())
    note = ", ".join(f"{seconds} s of audio took {took:.0f} s" for seconds, (_, took) in peaks.items())
    more = peaks[longer][0] - peaks[shorter][0]
    yield Finding("worker over an hour of audio: peak above that over 10 minutes", more, "MiB", at_most(200), raw, note)


def _peak(client: Client, audio: Path) -> tuple[float, float]:
    client.unload("warm")
    client.load()
    worker = client.server.pids()["worker"]
    with Watch(lambda: resident_of(worker).resident / MIB, _LOOK_SECONDS) as watch:
        seconds, _ = client.transcribe(audio)
    return max(watch.values), seconds
