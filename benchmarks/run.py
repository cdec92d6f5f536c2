"""A run of benchmarks from its first topic to its report, whatever they measure."""

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

SceneT = TypeVar("SceneT")


@dataclass(frozen=True, slots=True)
class Topic(Generic[SceneT]):
    """One thing that is measured: its name for the command line, what it is about, and the run itself."""

    name: str
    title: str
    run: Callable[[SceneT], Iterable[Finding]]


def measured(topics: Sequence[Topic[SceneT]], scene: SceneT, *, packages: Sequence[str]) -> Report:
    """Run the topics one after the other, telling what they find. packages: whose versions the figures depend on."""
    at, began, facts = datetime.now(UTC), time.monotonic(), machine(packages)
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


def conclude(report: Report, path: Path) -> None:
    """Save everything and say how it came out."""
    write_json(report, path)
    held, bounds = report.kept
    print(f"\n{held} of {bounds} bounds hold; {report.seconds:.0f} s; saved in {path}")
    for name, cause in report.broken.items():
        print(f"BROKEN: {name}: {cause}")


def write_docs_if_whole(report: Report, write: Callable[[Report], None], *, whole: bool) -> None:
    """Have the page rewritten, unless something is missing."""
    if whole and not report.broken:
        write(report)
        print("docs/benchmarks.md has the new tables")
    else:
        print("docs/benchmarks.md stays as it is: only a whole run that is not quick writes it")


def exit_status(report: Report, *, strict: bool) -> int:
    """Return 0; 1 when strict and a bound does not hold; 2 when a benchmark broke."""
    if report.broken:
        return 2
    held, bounds = report.kept
    return 1 if strict and held < bounds else 0
