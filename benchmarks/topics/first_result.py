"""Latency of the first result after an unload, compared with a loaded model."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import upload_of_10_mb
from benchmarks.bench_run import BenchRun
from benchmarks.measure import Finding, Runs, at_most

NAME = "first-result"
TITLE = "First result after an unload, with an upload of 10 MB"
_RUNS = 15
"""Many, because transcriptions of the same window differ by more than the measured effect."""
_LIMITS = {"warm": 200.0, "cold": 2500.0}


def run(bench: BenchRun) -> Generator[Finding]:
    """Send the same audio to the loaded model, after a warm unload, and after a cold unload, alternating."""
    audio = upload_of_10_mb(bench.audio)
    waits: dict[str, list[float]] = {"loaded": [], "warm": [], "cold": []}
    with bench.server() as client:
        client.transcribe(audio)
        for _ in range(bench.runs(_RUNS)):
            for found, seen in waits.items():
                if found != "loaded":
                    client.unload(found)
                seen.append(1000 * client.transcribe(audio)[0])
    loaded = Runs.of("loaded", "ms", waits["loaded"])
    for depth, limit in _LIMITS.items():
        after = Runs.of(f"after {depth}", "ms", waits[depth])
        claim = f"first result after an unload depth={depth}: additional latency"
        yield Finding(claim, after.median - loaded.median, "ms", at_most(limit), (after, loaded))
