"""The same for a checkpoint in the shape of large-v3, with random weights: no real one can be had without a network."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

from benchmarks.library import library
from benchmarks.measure import Finding, at_least
from benchmarks.scene import Scene
from benchmarks.topics.load import compared, equality

NAME = "load-large"
TITLE = "Load of a checkpoint in the shape of large-v3"
_RUNS = 2
_SIZE = "large-v3"


def run(scene: Scene) -> Generator[Finding]:
    """Make the checkpoint, compare, and delete it. --quick: the same with the shape of small."""
    size = "small" if scene.quick else _SIZE
    path = scene.folder / f"{size}-random.pt"
    cache = scene.folder / "cache-large"
    try:
        _make(path, size=size)
        settings = {"MODEL": size, "MODEL_PATH": str(path), "CACHE_DIR": str(cache)}
        with scene.server(**settings) as client, library("openai-whisper") as stock:
            client.load()
            bound = at_least(5 if scene.quick else 50)
            yield compared(client, stock, path=path, runs=_RUNS, bound=bound, size=f"{size} (random)")
        yield equality(path, cache=cache, size=size)
    finally:
        if not scene.keep:
            path.unlink(missing_ok=True)
            shutil.rmtree(cache, ignore_errors=True)


def _make(path: Path, *, size: str) -> None:
    if not path.exists():
        with library("openai-whisper") as process:
            process.ask("write random", path=str(path), size=size)
