"""Load time compared with the stock library."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from benchmarks.bench_run import PATHS, BenchRun, Client
from benchmarks.library import Library, library
from benchmarks.measure import Bound, Finding, Runs, at_least

NAME = "load"
TITLE = "Load of tiny.en"
_RUNS = 9


def run(bench: BenchRun) -> Generator[Finding]:
    """Compare warm loads and the loaded models."""
    path = PATHS["openai-whisper"]
    with bench.server() as client, library("openai-whisper") as stock:
        client.load()  # converts the checkpoint, once for all benchmarks
        yield compared(client, stock, path=path, runs=bench.runs(_RUNS), bound=at_least(5), size="tiny.en")
    yield equality(path, cache=bench.cache, size="tiny.en")


def compared(client: Client, stock: Library, *, path: Path, runs: int, bound: Bound, size: str) -> Finding:
    """Load with both in turn, after imports."""
    rival: list[float] = []
    ours: list[float] = []
    waits: list[float] = []
    phases: dict[str, float] = {}
    for _ in range(runs):
        client.unload("warm")
        rival.append(stock.seconds("load", path=str(path)))
        seconds, phases = client.load()
        ours.append(phases["total"])
        waits.append(seconds)
    raw = (Runs.of("whisper.load_model", "s", rival), Runs.of("the server, from request to ready", "s", ours))
    answered = Runs.of("POST /model/load, until the response", "s", waits)
    note = "of the last load: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in phases.items())
    ratio = raw[0].median / raw[1].median
    return Finding(f"load of {size}, depth=warm: times faster than stock", ratio, "x", bound, (*raw, answered), note)


def equality(path: Path, *, cache: Path, size: str) -> Finding:
    """Compare the loaded models in one process."""
    with library("openai-whisper") as process:
        answer = process.ask("compare", path=str(path), cache=str(cache), size=size)
    equal = float(answer["weights"] is True and answer["logits"] is True)
    note = f"weights equal: {answer['weights']}, logits equal: {answer['logits']}"
    return Finding(f"{size}: weights and logits bit-identical to stock (1: yes)", equal, "", at_least(1), note=note)
