"""An event loop whose time passes only when nothing else is left to do: hours take milliseconds, and a hang is seen."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Hang(AssertionError):
    """Nothing is ready, no timer is set: whoever still waits would wait forever."""


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Hang("nothing will ever happen again")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Calls each_turn after every turn, for invariants that must hold at every instant. Threads have no place here."""

    def __init__(self) -> None:
        self._clock = _Selector()
        self.each_turn: Callable[[], None] = lambda: None
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def stand_still(self, seconds: float) -> None:
        """Let time pass at once, as it does for a process that is stopped."""
        self._clock.now += seconds

    def _run_once(self) -> None:
        super()._run_once()  # pyright: ignore[reportAttributeAccessIssue]
        self.each_turn()


def virtual_loop() -> VirtualTimeLoop:
    """Return the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def run(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to its end in virtual time. Raises Hang."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        try:
            return runner.run(story())
        finally:
            loop.each_turn = lambda: None  # what is cancelled now keeps no invariants
