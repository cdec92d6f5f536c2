"""Run benchmarks: `python -m benchmarks [names...]`; without names, all of them."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import Finding
from benchmarks.report import Report, machine, text_of, write_docs, write_json
from benchmarks.scene import PATHS, Scene, Topic
from benchmarks.topics import TOPICS

FOLDER = Path("var/bench")


def main(arguments: list[str] | None = None) -> int:
    """Return 0; 1 with --strict when a bound does not hold; 2 when a benchmark broke."""
    given = _parser().parse_args(arguments)
    topics = [topic for topic in TOPICS if not given.names or topic.name in given.names]
    if missing := [str(path) for path in PATHS.values() if not path.exists()]:
        print(f"there is no {', '.join(missing)}: run 'make weights'", file=sys.stderr)
        return 2
    report = _run(topics, Scene(FOLDER.absolute(), quick=given.quick, keep=given.keep))
    path = given.json or FOLDER / f"{report.at:%Y%m%dT%H%M%SZ}{'-quick' if given.quick else ''}.json"
    write_json(report, path)
    held, bounds = report.kept
    print(f"\n{held} of {bounds} bounds hold; {report.seconds:.0f} s; saved in {path}")
    for name, cause in report.broken.items():
        print(f"BROKEN: {name}: {cause}")
    if given.docs:
        _write_docs_if_whole(report, whole=len(topics) == len(TOPICS) and not given.quick)
    if report.broken:
        return 2
    return 1 if given.strict and held < bounds else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure what docs/benchmarks.md promises."
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
        "--docs", action="store_true", help="write the tables into docs/benchmarks.md, after a whole run"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bound does not hold")
    parser.add_argument("--quick", action="store_true", help="few repetitions and short audio, to see that all works")
    parser.add_argument(
        "--keep", action="store_true", help="keep the large random checkpoint (9 GB with its converted form)"
    )
    return parser


def _run(topics: Sequence[Topic], scene: Scene) -> Report:
    at, began, facts = datetime.now(UTC), time.monotonic(), machine()
    findings: dict[str, list[Finding]] = {}
    broken: dict[str, str] = {}
    for topic in topics:
        found = findings.setdefault(topic.title, [])
        print(f"\n{topic.title} ({topic.name})", flush=True)
        started = time.monotonic()
        try:
            for finding in topic.run(scene):
                found.append(finding)
                print(text_of(finding), flush=True)
        except Exception as error:  # noqa: BLE001 (one benchmark that breaks must not take the others with it)
            traceback.print_exc()
            broken[topic.name] = f"{type(error).__name__}: {error}"
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    return Report(at, time.monotonic() - began, facts, findings, broken)


def _write_docs_if_whole(report: Report, *, whole: bool) -> None:
    if whole and not report.broken:
        write_docs(report)
        print("docs/benchmarks.md has the new tables")
    else:
        print("docs/benchmarks.md stays as it is: only a whole run that is not quick writes it")


if __name__ == "__main__":
    sys.exit(main())
