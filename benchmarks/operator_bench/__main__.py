"""Run the operator's benchmarks: `python -m benchmarks.operator_bench [names...]`; without names, all of them."""

from __future__ import annotations

import sys

from benchmarks.operator_bench.fleet import BenchRun
from benchmarks.operator_bench.topics import TOPICS
from benchmarks.program import Program

PROGRAM = Program(
    name="operator",
    topics=TOPICS,
    packages=("kopf", "kubernetes", "aiohttp", "pydantic"),
    new_run=BenchRun,
    quick="the models",
)

if __name__ == "__main__":
    sys.exit(PROGRAM.main())
