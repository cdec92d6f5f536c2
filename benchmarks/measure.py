"""Results of benchmarks: repeated measurements, and a value derived from them that must stay within a bound."""

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
    """Repeated measurements of the same thing, in order."""

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
        """Return the median with minimum, maximum and number of runs."""
        text = f"{self.what} {figure(self.median)} {self.unit}"
        if len(self.values) == 1:
            return text
        return f"{text} ({figure(min(self.values))} to {figure(max(self.values))}, n={len(self.values)})"


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit for a value."""

    kind: Literal["at most", "at least"]
    limit: float

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.kind == "at most" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a benchmark."""

    claim: str
    """What the value is."""
    value: float
    unit: str
    bound: Bound | None = None
    """The limit; None if there is none."""
    runs: tuple[Runs, ...] = ()
    """The measurements that the value is derived from."""
    note: str = ""
    """Additional information for readers."""

    @property
    def holds(self) -> bool | None:
        """Whether the value is within the bound; None without a bound."""
        return None if self.bound is None else self.bound.holds(self.value)

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "does not hold", None: ""}[self.holds]


def at_most(limit: float) -> Bound:
    return Bound("at most", limit)


def at_least(limit: float) -> Bound:
    return Bound("at least", limit)


def figure(value: float) -> str:
    """Format a number with three significant digits and no exponent."""
    for digits, least in ((0, 100), (1, 10), (2, 1)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """Run an action; return how long it took in seconds, and its result."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


@dataclass(slots=True)
class Watch:
    """Samples a value periodically until the block ends."""

    sample: Callable[[], float]
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
            self.values.append(self.sample())
            self._ended.wait(self.every_seconds)
