"""A transcription next to a busy process: its slowdown and CPU time."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import psutil

from benchmarks.audio import SPEECH
from benchmarks.bench_run import ENGINES, PATHS, BenchRun, Client
from benchmarks.library import Library, library
from benchmarks.measure import Finding, Runs, at_most

NAME = "neighbour"
TITLE = "11 s of speech beside one busy process"
_RUNS = 5
_SPEECH_SECONDS = 11.0
_BUSY = "print(flush=True)\nwhile True: pass"

Use = tuple[float, float]
"""Wall-clock and CPU seconds of a transcription."""
Uses = dict[tuple[str, str], list[Use]]
"""By server or library, and by alone or beside (a busy process)."""


def run(bench: BenchRun) -> Generator[Finding]:
    """Compare the server with the library in its default configuration, each alone and next to a busy process."""
    for engine in ENGINES:
        uses = _measured(bench, engine)
        yield _slowdown(engine, uses)
        yield _processor_time(engine, uses)


def _measured(bench: BenchRun, engine: str) -> Uses:
    """Transcribe with both in turn, with the model loaded."""
    uses: Uses = defaultdict(list)
    with bench.server(engine) as client, library(engine) as direct:
        client.transcribe(SPEECH)
        _directly(direct, engine)
        for _ in range(bench.runs(_RUNS)):
            for place, neighbour in (("alone", nullcontext), ("beside", busy_process)):
                with neighbour():
                    uses["server", place].append(_through(client))
                with neighbour():
                    uses["library", place].append(_directly(direct, engine))
    return uses


@contextmanager
def busy_process() -> Generator[None]:
    """Keep one core busy with a process of normal priority while the block runs."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def _through(client: Client) -> Use:
    began = _processor_seconds(client)
    seconds, _ = client.transcribe(SPEECH)
    return seconds, _processor_seconds(client) - began


def _processor_seconds(client: Client) -> float:
    """Return the CPU seconds that the worker has used so far."""
    times = psutil.Process(client.server.pids()["worker"]).cpu_times()
    return times.user + times.system


def _directly(direct: Library, engine: str) -> Use:
    answer = direct.ask("transcribe", model=str(PATHS[engine]), audio=str(SPEECH))
    return float(answer["seconds"]), float(answer["cpu_seconds"])


def _slowdown(engine: str, uses: Uses) -> Finding:
    raw = {key: Runs.of(" ".join(key), "s", [seconds for seconds, _ in used]) for key, used in uses.items()}
    server, stock = (raw[who, "beside"].median / raw[who, "alone"].median for who in ("server", "library"))
    note = f"the library with its own defaults: {stock:.2f} times as long"
    claim = f"{engine}, beside one busy process ÷ alone"
    return Finding(claim, server, "", at_most(3), tuple(raw.values()), note)


def _processor_time(engine: str, uses: Uses) -> Finding:
    raw = {
        key: Runs.of(" ".join(key), "s per s of audio", [cpu / _SPEECH_SECONDS for _, cpu in used])
        for key, used in uses.items()
    }
    ratio = raw["server", "beside"].median / raw["library", "beside"].median
    claim = f"{engine}, processor time beside one busy process: the server's worker ÷ the library"
    return Finding(claim, ratio, "", at_most(1.1), tuple(raw.values()))
