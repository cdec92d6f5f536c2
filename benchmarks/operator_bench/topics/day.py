"""24 simulated hours of 200 models: memory growth of the operator, and leftovers of deleted models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator

from benchmarks.measure import Finding, Runs, at_most
from benchmarks.operator_bench.fleet import MB, BenchRun

NAME = "day"
TITLE = "24 simulated hours of 200 models"
_MODELS, _HOURS, _WARM_UP = 200, 24, 4
_RUN_SECONDS = 3600
_NOT_LEFT = ("objects in the store", "memories", "series", "queue keys", "keys in work", "tasks")


def run(bench: BenchRun) -> Generator[Finding]:
    """Simulate in a separate process, which contains only the operator and the simulated cluster."""
    models = bench.count(_MODELS)
    command = [sys.executable, "-m", "benchmarks.operator_bench.simulated_day", str(models), str(_HOURS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_SECONDS)
    if done.returncode:
        raise RuntimeError(f"the simulation failed with status {done.returncode}: {done.stderr[-2000:]}")
    *hours, end = [json.loads(line) for line in done.stdout.splitlines()]
    held = [hour["rss"] / MB for hour in hours]
    raw = Runs.of("after each hour since the warm-up", "MB", held[_WARM_UP - 1 :])
    last = hours[-1]
    note = (
        f"{last['reconciliations']:,} reconciliations, {last['events']:,} events, {last['requests']:,} requests to the "
        f"API server, {last['pods']} pods started; the first {_WARM_UP} hours are warm-up"
    )
    claim = "growth over 24 simulated hours (RSS, operator and simulated cluster)"
    yield Finding(claim, held[-1] - held[_WARM_UP - 1], "MB", at_most(5), (raw,), note)
    left = {what: end[what] for what in _NOT_LEFT}
    words = ", ".join(f"{what} {count}" for what, count in left.items())
    yield Finding("leftovers of deleted models", float(sum(left.values())), "", at_most(0), note=words)
