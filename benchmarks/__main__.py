"""Run benchmarks: `python -m benchmarks [names...]`; without names, all of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.bench_run import PATHS, BenchRun
from benchmarks.report import write_docs
from benchmarks.run import conclude, exit_status, measured, write_docs_if_whole
from benchmarks.topics import TOPICS

FOLDER = Path("var/bench")
PACKAGES = ("torch", "openai-whisper", "faster-whisper", "ctranslate2")


def main(arguments: list[str] | None = None) -> int:
    """Return 0; 1 with --strict if a bound does not hold; 2 if a benchmark failed with an error."""
    given = _parser().parse_args(arguments)
    topics = [topic for topic in TOPICS if not given.names or topic.name in given.names]
    if missing := [str(path) for path in PATHS.values() if not path.exists()]:
        print(f"missing {', '.join(missing)}: run 'make weights'", file=sys.stderr)
        return 2
    report = measured(topics, BenchRun(FOLDER.absolute(), quick=given.quick, keep=given.keep), packages=PACKAGES)
    conclude(report, given.json or FOLDER / f"{report.at:%Y%m%dT%H%M%SZ}{'-quick' if given.quick else ''}.json")
    if given.docs:
        write_docs_if_whole(report, write_docs, whole=len(topics) == len(TOPICS) and not given.quick)
    return exit_status(report, strict=given.strict)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run the server's benchmarks of docs/benchmarks.md."
    )
    parser.add_argument(
        "names",
        nargs="*",
        choices=[[], *(topic.name for topic in TOPICS)],
        metavar="name",
        help=", ".join(topic.name for topic in TOPICS),
    )
    parser.add_argument("--json", type=Path, help="where to save the results (default: a new file in var/bench)")
    parser.add_argument(
        "--docs", action="store_true", help="update the tables in docs/benchmarks.md after a complete run"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound does not hold")
    parser.add_argument(
        "--quick", action="store_true", help="few repetitions and short audio, to check that everything works"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the large random checkpoint (9 GB with its converted form)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
