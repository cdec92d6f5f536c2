"""Load time of a random checkpoint in the shape of large-v3, because no real one is available offline."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

from benchmarks.bench_run import BenchRun
from benchmarks.library import library
from benchmarks.measure import Finding, at_least
from benchmarks.topics.load import compared, equality

NAME = "load-large"
TITLE = "Load of a checkpoint in the shape of large-v3"
_RUNS = 2
_SIZE = "large-v3"


def run(bench: BenchRun) -> Generator[Finding]:
    """Create the checkpoint, compare loads, and delete it. A quick run uses the shape of small."""
    size = "small" if bench.quick else _SIZE
    path = bench.folder / f"{size}-random.pt"
    cache = bench.folder / "cache-large"
    try:
        _make(path, size=size)
        settings = {"MODEL": size, "MODEL_PATH": str(path), "CACHE_DIR": str(cache)}
        with bench.server(**settings) as client, library("openai-whisper") as stock:
            client.load()
            bound = at_least(5 if bench.quick else 50)
            yield compared(client, stock, path=path, runs=_RUNS, bound=bound, size=f"{size} (random)")
        yield equality(path, cache=cache, size=size)
    finally:
        if not bench.keep:
            path.unlink(missing_ok=True)
            shutil.rmtree(cache, ignore_errors=True)


def _make(path: Path, *, size: str) -> None:
    if not path.exists():
        with library("openai-whisper") as process:
            process.ask("write random", path=str(path), size=size)
