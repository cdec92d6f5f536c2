"""Run the gateway's benchmarks: `python -m benchmarks.gateway_bench [names...]`; without names, all of them."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from benchmarks.gateway_bench.site import BenchRun
from benchmarks.gateway_bench.topics import TOPICS
from benchmarks.report import write_docs
from benchmarks.run import conclude, exit_status, measured, write_docs_if_whole
from testing.api_server import HOW_TO_GET_THEM, binaries

FOLDER = Path("var/bench")
PACKAGES = ("kubernetes", "aiohttp", "fastapi", "uvicorn", "SQLAlchemy")
BEGIN, END = "<!-- bench-gateway:begin -->", "<!-- bench-gateway:end -->"


def main(arguments: list[str] | None = None) -> int:
    """Return 0; 1 with --strict if a bound does not hold; 2 if a benchmark failed with an error."""
    given = _parser().parse_args(arguments)
    topics = [topic for topic in TOPICS if not given.names or topic.name in given.names]
    if binaries() is None:
        print(HOW_TO_GET_THEM, file=sys.stderr)
        return 2
    report = measured(topics, BenchRun(FOLDER.absolute() / "gateway", quick=given.quick), packages=PACKAGES)
    quick = "-quick" if given.quick else ""
    conclude(report, given.json or FOLDER / f"gateway-{report.at:%Y%m%dT%H%M%SZ}{quick}.json")
    if given.docs:
        whole = len(topics) == len(TOPICS) and not given.quick
        write_docs_if_whole(report, partial(write_docs, begin=BEGIN, end=END), whole=whole)
    return exit_status(report, strict=given.strict)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway_bench",
        description="Run the gateway's benchmarks of docs/benchmarks.md.",
    )
    names = [topic.name for topic in TOPICS]
    parser.add_argument("names", nargs="*", choices=[[], *names], metavar="name", help=", ".join(names))
    parser.add_argument("--json", type=Path, help="where to save the results (default: a new file in var/bench)")
    parser.add_argument(
        "--docs", action="store_true", help="update the tables in docs/benchmarks.md after a complete run"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound does not hold")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to check that everything works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
