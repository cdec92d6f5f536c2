"""An unload: how long until the process is gone and measured, and what is left."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import SPEECH
from benchmarks.measure import MIB, Finding, Runs, at_most
from benchmarks.scene import Client, Scene
from tools.server_process import Tree
from whisper_inference.worker.resident import Resident

NAME = "unload"
TITLE = "Unload of tiny.en, and what is left"
_RUNS = 7
_LIMITS = {"warm": 400, "cold": 80}


def run(scene: Scene) -> Generator[Finding]:
    """Unload after work, warm and cold in turn."""
    waits: dict[str, list[float]] = {depth: [] for depth in _LIMITS}
    left: dict[str, list[Tree]] = {depth: [] for depth in _LIMITS}
    with scene.server() as client:
        loaded = client.server.weigh()
        yield _weighed("held by a server that has never loaded", [loaded])
        for _ in range(scene.runs(_RUNS)):
            for depth in _LIMITS:
                loaded = _unloaded_after_work(client, depth, waits=waits[depth], left=left[depth])
    yield _weighed("held while loaded, after work", [loaded])
    for depth, limit in _LIMITS.items():
        answered = Runs.of("POST /model/unload", "ms", waits[depth])
        claim = f"unload depth={depth}: answered, gone and measured (the slowest)"
        yield Finding(claim, max(waits[depth]), "ms", at_most(250), (answered,))
        yield _weighed(f"left after an unload depth={depth} (the most)", left[depth], limit=limit)


def _unloaded_after_work(client: Client, depth: str, *, waits: list[float], left: list[Tree]) -> Tree:
    client.transcribe(SPEECH)
    loaded = client.server.weigh()
    waits.append(1000 * client.unload(depth))
    left.append(client.server.weigh())
    return loaded


def _weighed(claim: str, trees: list[Tree], *, limit: float | None = None) -> Finding:
    """Judge the tree's PSS; the note says of what it consists."""
    held = Runs.of("PSS of the tree", "MiB", [tree.total.proportional / MIB for tree in trees])
    parts = {"API process": trees[-1].api, "zygote": trees[-1].zygote, "worker": trees[-1].worker}
    note = "; ".join(f"{name} {_words(part)}" for name, part in parts.items() if part.resident)
    return Finding(claim, max(held.values), "MiB", at_most(limit) if limit else None, (held,), note)


def _words(held: Resident) -> str:
    return (
        f"{held.proportional / MIB:.0f} MiB (of {held.resident / MIB:.0f} MiB resident: "
        f"{held.anonymous / MIB:.0f} anonymous, {held.file / MIB:.0f} from files)"
    )
