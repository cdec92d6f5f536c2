"""The first result after an unload against one while loaded: what a client notices of it."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import upload_of_10_mb
from benchmarks.measure import Finding, Runs, at_most
from benchmarks.scene import Scene

NAME = "first-result"
TITLE = "First result after an unload, with an upload of 10 MB"
_RUNS = 15
"""A transcription of one window differs from the next by more than what is measured."""
_LIMITS = {"warm": 200.0, "cold": 2500.0}


def run(scene: Scene) -> Generator[Finding]:
    """Send the same audio loaded, after a warm and after a cold unload, in turn."""
    audio = upload_of_10_mb(scene.audio)
    waits: dict[str, list[float]] = {"loaded": [], "warm": [], "cold": []}
    with scene.server() as client:
        client.transcribe(audio)
        for _ in range(scene.runs(_RUNS)):
            for found, seen in waits.items():
                if found != "loaded":
                    client.unload(found)
                seen.append(1000 * client.transcribe(audio)[0])
    loaded = Runs.of("loaded", "ms", waits["loaded"])
    for depth, limit in _LIMITS.items():
        after = Runs.of(f"after {depth}", "ms", waits[depth])
        claim = f"first result after an unload depth={depth}: longer than when loaded by"
        yield Finding(claim, after.median - loaded.median, "ms", at_most(limit), (after, loaded))
