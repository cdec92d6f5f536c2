"""The command line that the benchmark programs of a cluster share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic

from benchmarks.report import write_docs
from benchmarks.run import RunT, Topic, conclude, exit_status, measured, write_docs_if_whole
from testing.api_server import HOW_TO_GET_THEM, binaries

FOLDER = Path("var/bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Generic[RunT]):
    """A program `python -m benchmarks.NAME_bench [topics...]`; without topics, it runs all of them."""

    name: str
    """What is measured."""
    topics: Sequence[Topic[RunT]]
    """In run order."""
    packages: Sequence[str]
    """Those whose versions affect results."""
    new_run: Callable[[Path, bool], RunT]
    """Prepares a run from the folder for its files, and whether it is quick."""
    quick: str
    """What --quick takes a tenth of."""

    def main(self, arguments: list[str] | None = None) -> int:
        """Return 0; 1 with --strict if a bound does not hold; 2 if a benchmark failed with an error."""
        given = self._parser().parse_args(arguments)
        topics = [topic for topic in self.topics if not given.names or topic.name in given.names]
        if binaries() is None:
            print(HOW_TO_GET_THEM, file=sys.stderr)
            return 2
        report = measured(topics, self.new_run(FOLDER.absolute() / self.name, given.quick), packages=self.packages)
        quick = "-quick" if given.quick else ""
        conclude(report, given.json or FOLDER / f"{self.name}-{report.at:%Y%m%dT%H%M%SZ}{quick}.json")
        if given.docs:
            begin, end = (f"<!-- bench-{self.name}:{mark} -->" for mark in ("begin", "end"))
            whole = len(topics) == len(self.topics) and not given.quick
            write_docs_if_whole(report, partial(write_docs, begin=begin, end=end), whole=whole)
        return exit_status(report, strict=given.strict)

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}_bench",
            description=f"Run the {self.name}'s benchmarks of docs/benchmarks.md.",
        )
        names = [topic.name for topic in self.topics]
        parser.add_argument("names", nargs="*", choices=[[], *names], metavar="name", help=", ".join(names))
        parser.add_argument("--json", type=Path, help="where to save the results (default: a new file in var/bench)")
        parser.add_argument(
            "--docs", action="store_true", help="update the tables in docs/benchmarks.md after a complete run"
        )
        parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound does not hold")
        parser.add_argument(
            "--quick", action="store_true", help=f"a tenth of {self.quick}, to check that everything works"
        )
        return parser
