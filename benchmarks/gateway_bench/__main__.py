"""Run the gateway's benchmarks: `python -m benchmarks.gateway_bench [names...]`; without names, all of them."""

from __future__ import annotations

import sys

from benchmarks.gateway_bench.site import BenchRun
from benchmarks.gateway_bench.topics import TOPICS
from benchmarks.program import Program

PROGRAM = Program(
    name="gateway",
    topics=TOPICS,
    packages=("kubernetes", "aiohttp", "fastapi", "uvicorn", "SQLAlchemy"),
    new_run=BenchRun,
    quick="everything",
)

if __name__ == "__main__":
    sys.exit(PROGRAM.main())
