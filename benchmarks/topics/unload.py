"""Unload time, and the memory that remains."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import SPEECH
from benchmarks.bench_run import BenchRun, Client
from benchmarks.measure import MIB, Finding, Runs, at_most
from tools.server_process import Tree
from whisper_inference.worker.resident import Resident

NAME = "unload"
TITLE = "Unload of tiny.en, and the remaining memory"
_RUNS = 7
_LIMITS = {"warm": 400, "cold": 80}


def run(bench: BenchRun) -> Generator[Finding]:
    """Unload after a transcription, warm and cold in turn."""
    waits: dict[str, list[float]] = {depth: [] for depth in _LIMITS}
    left: dict[str, list[Tree]] = {depth: [] for depth in _LIMITS}
    with bench.server() as client:
        loaded = client.server.measure_memory()
        yield _memory("memory of a server that has never loaded a model", [loaded])
        for _ in range(bench.runs(_RUNS)):
            for depth in _LIMITS:
                loaded = _unloaded_after_work(client, depth, waits=waits[depth], left=left[depth])
    yield _memory("memory while loaded, after a transcription", [loaded])
    for depth, limit in _LIMITS.items():
        answered = Runs.of("POST /model/unload", "ms", waits[depth])
        claim = f"unload depth={depth}: until the response (maximum)"
        yield Finding(claim, max(waits[depth]), "ms", at_most(250), (answered,))
        yield _memory(f"memory after an unload depth={depth} (maximum)", left[depth], limit=limit)


def _unloaded_after_work(client: Client, depth: str, *, waits: list[float], left: list[Tree]) -> Tree:
    client.transcribe(SPEECH)
    loaded = client.server.measure_memory()
    waits.append(1000 * client.unload(depth))
    left.append(client.server.measure_memory())
    return loaded


def _memory(claim: str, trees: list[Tree], *, limit: float | None = None) -> Finding:
    """Return the PSS of the process tree; the note splits it by process."""
    held = Runs.of("PSS of the tree", "MiB", [tree.total.proportional / MIB for tree in trees])
    parts = {"API process": trees[-1].api, "zygote": trees[-1].zygote, "worker": trees[-1].worker}
    note = "; ".join(f"{name} {_words(part)}" for name, part in parts.items() if part.resident)
    return Finding(claim, max(held.values), "MiB", at_most(limit) if limit else None, (held,), note)


def _words(held: Resident) -> str:
    return (
        f"{held.proportional / MIB:.0f} MiB (of {held.resident / MIB:.0f} MiB resident: "
        f"{held.anonymous / MIB:.0f} anonymous, {held.file / MIB:.0f} from files)"
    )
