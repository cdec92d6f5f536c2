"""What a benchmark finds: several runs of one thing, and a figure made of them that has to keep to a bound."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, TypeVar

MIB = 2**20
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Runs:
    """The values of one thing that was measured several times, in the order of measuring."""

    what: str
    unit: str
    values: tuple[float, ...]

    @classmethod
    def of(cls, what: str, unit: str, values: Sequence[float]) -> Self:
        return cls(what, unit, tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        """Return the median, and the least and the most of how many."""
        text = f"{self.what} {figure(self.median)} {self.unit}"
        if len(self.values) == 1:
            return text
        return f"{text} ({figure(min(self.values))} to {figure(max(self.values))}, n={len(self.values)})"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must be."""

    kind: Literal["at most", "at least"]
    limit: float

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.kind == "at most" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure with what it was made of. bound: None where nothing is promised. note: what a reader should know."""

    claim: str
    value: float
    unit: str
    bound: Bound | None = None
    runs: tuple[Runs, ...] = ()
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None without one."""
        return None if self.bound is None else self.bound.holds(self.value)

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "does not hold", None: ""}[self.holds]


def at_most(limit: float) -> Bound:
    return Bound("at most", limit)


def at_least(limit: float) -> Bound:
    return Bound("at least", limit)


def figure(value: float) -> str:
    """Return a number with three significant digits, and never an exponent."""
    for digits, least in ((0, 100), (1, 10), (2, 1)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that an action takes, and its result."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


@dataclass(slots=True)
class Watch:
    """Looks at a figure again and again while a block runs; values: what was seen."""

    look: Callable[[], float]
    every_seconds: float
    values: list[float] = field(default_factory=list[float])
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        while not self._ended.is_set():
            self.values.append(self.look())
            self._ended.wait(self.every_seconds)
