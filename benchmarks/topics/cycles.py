"""Memory growth over many loads and unloads."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.bench_run import BenchRun, Client
from benchmarks.measure import MIB, Finding, Runs, at_most
from whisper_inference.worker.resident import Resident

NAME = "cycles"
TITLE = "Growth over 200 load/unload cycles"
_CYCLES = 200
_SETTLED = 10
"""Warm-up cycles for allocators and caches; growth is counted after them."""


def run(bench: BenchRun) -> Generator[Finding]:
    """Load and unload with depth=warm, and measure the memory while unloaded."""
    cycles = 20 if bench.quick else _CYCLES
    held: dict[str, list[Resident]] = {"API process": [], "zygote": []}
    with bench.server() as client:
        for cycle in range(cycles + _SETTLED + 1):
            client.load()
            client.unload("warm")
            if cycle in (0, _SETTLED, _SETTLED + cycles // 2, _SETTLED + cycles):
                _note(client, held)
    for process, samples in held.items():
        yield _growth(process, samples, cycles=cycles)


def _note(client: Client, held: dict[str, list[Resident]]) -> None:
    tree = client.server.measure_memory()
    held["API process"].append(tree.api)
    held["zygote"].append(tree.zygote)


def _growth(process: str, samples: list[Resident], *, cycles: int) -> Finding:
    grown = (samples[-1].resident - samples[1].resident) / MIB
    anonymous = (samples[-1].anonymous - samples[1].anonymous) / MIB
    raw = Runs.of(
        f"resident after 1, {_SETTLED + 1}, half and all cycles", "MiB", [sample.resident / MIB for sample in samples]
    )
    series = ", ".join(f"{value:.2f}" for value in raw.values)
    note = f"resident MiB: {series}; of the growth, anonymous: {anonymous:.2f} MiB"
    claim = f"growth of the {process} over {cycles} cycles (after {_SETTLED + 1} to settle)"
    return Finding(claim, grown, "MiB", at_most(1), (raw,), note)
