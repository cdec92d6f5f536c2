"""Memory of the API process during an upload of 1 GB, which it streams to disk."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import SPEECH, upload_of_1_gb, upload_of_10_mb
from benchmarks.bench_run import BenchRun
from benchmarks.measure import MIB, Finding, Runs, Watch, at_most, timed
from whisper_inference.worker.resident import resident_of

NAME = "upload"
TITLE = "Memory of the API process during an upload of 1 GB"
_LOOK_SECONDS = 0.02


def run(bench: BenchRun) -> Generator[Finding]:
    """Submit a job of 1 GB while sampling the memory of the API process."""
    audio = upload_of_10_mb(bench.audio) if bench.quick else upload_of_1_gb(bench.audio)
    with bench.server() as client:
        client.transcribe(SPEECH)
        before = resident_of(client.server.pid).resident / MIB
        with (
            Watch(lambda: resident_of(client.server.pid).resident / MIB, _LOOK_SECONDS) as watch,
            audio.open("rb") as file,
        ):
            seconds, answer = timed(lambda: client.http.post("/jobs", files={"file": (audio.name, file)}))
        answer.raise_for_status()
        client.http.delete(f"/jobs/{answer.json()['id']}").raise_for_status()
    grown = max(watch.values) - before
    raw = (Runs.of("before", "MiB", [before]), Runs.of("peak", "MiB", [max(watch.values)]))
    size = audio.stat().st_size
    note = f"{size / 1e9:.2f} GB accepted in {seconds:.1f} s, {len(watch.values)} samples"
    yield Finding("growth of the API process during an upload of 1 GB", grown, "MiB", at_most(20), raw, note)
