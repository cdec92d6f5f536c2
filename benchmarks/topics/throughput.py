"""Overhead of the server compared with calling the engine directly."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import SPEECH, dense
from benchmarks.bench_run import ENGINES, PATHS, BenchRun
from benchmarks.library import THREADS_SLEEP, library
from benchmarks.measure import Finding, Runs, at_most

NAME = "throughput"
TITLE = "150 s of speech: the server compared with calling the engine directly"
_SECONDS = 150
_RUNS = 5


def run(bench: BenchRun) -> Generator[Finding]:
    """Transcribe with both in turn, loaded, with the same niceness, threads and wait policy."""
    for engine in ENGINES:
        yield _compared(bench, engine)


def _compared(bench: BenchRun, engine: str) -> Finding:
    audio = dense(bench.audio, 23 if bench.quick else _SECONDS)
    model = str(PATHS[engine])
    through: list[float] = []
    directly: list[float] = []
    with bench.server(engine) as client, library(engine, **THREADS_SLEEP) as direct:
        client.transcribe(SPEECH)
        answer, text = direct.ask("transcribe", model=model, audio=str(SPEECH)), ""
        for _ in range(bench.runs(_RUNS)):
            answer = direct.ask("transcribe", model=model, audio=str(audio))
            directly.append(float(answer["seconds"]))
            seconds, text = client.transcribe(audio)
            through.append(seconds)
    raw = (Runs.of("server", "s", through), Runs.of("direct", "s", directly))
    note = "texts equal" if text.strip() == str(answer["text"]).strip() else "texts differ"
    return Finding(f"{engine}: server ÷ direct", raw[0].median / raw[1].median, "", at_most(1.05), raw, note)
