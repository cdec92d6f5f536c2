"""Run the topics of a benchmark program, and report the results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from benchmarks.measure import Finding
from benchmarks.report import Report, machine, text_of, write_json

RunT = TypeVar("RunT")


@dataclass(frozen=True, slots=True)
class Topic(Generic[RunT]):
    """A group of benchmarks: its name on the command line, its title, and the function that runs it."""

    name: str
    title: str
    run: Callable[[RunT], Iterable[Finding]]


def measured(topics: Sequence[Topic[RunT]], bench: RunT, *, packages: Sequence[str]) -> Report:
    """Run the topics in order, printing their results. packages: those whose versions affect results."""
    at, began, facts = datetime.now(UTC), time.monotonic(), machine(packages)
    findings: dict[str, list[Finding]] = {}
    broken: dict[str, str] = {}
    for topic in topics:
        found = findings.setdefault(topic.title, [])
        print(f"\n{topic.title} ({topic.name})", flush=True)
        started = time.monotonic()
        try:
            for finding in topic.run(bench):
                found.append(finding)
                print(text_of(finding), flush=True)
        except Exception as error:  # noqa: BLE001 (a broken benchmark must not stop the others)
            traceback.print_exc()
            broken[topic.name] = f"{type(error).__name__}: {error}"
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    return Report(at, time.monotonic() - began, facts, findings, broken)


def conclude(report: Report, path: Path) -> None:
    """Save the results and print a summary."""
    write_json(report, path)
    held, bounds = report.kept
    print(f"\n{held} of {bounds} bounds hold; {report.seconds:.0f} s; saved to {path}")
    for name, cause in report.broken.items():
        print(f"BROKEN: {name}: {cause}")


def write_docs_if_whole(report: Report, write: Callable[[Report], None], *, whole: bool) -> None:
    """Update the page if the run was complete."""
    if whole and not report.broken:
        write(report)
        print("updated the tables in docs/benchmarks.md")
    else:
        print("docs/benchmarks.md is unchanged: only a complete run without --quick updates it")


def exit_status(report: Report, *, strict: bool) -> int:
    """Return 0; 1 if strict and a bound does not hold; 2 if a benchmark failed with an error."""
    if report.broken:
        return 2
    held, bounds = report.kept
    return 1 if strict and held < bounds else 0
