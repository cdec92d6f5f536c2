"""The work queue: which keys are due, each queued at most once and processed at most once at a time.

The semantics of client-go's workqueue (k8s.io/client-go/util/workqueue), for asyncio: a key that is added while it is
being processed is due again right after; a key is queued once however often it is added; each failure in a row waits
longer.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)

_SLACK = 64
"""How many outdated entries may stay in the heap before it is rebuilt."""


@dataclass(frozen=True, slots=True)
class RetryDelay:
    """Seconds before a failed key is retried: doubling from first to most."""

    first: float = 0.5
    most: float = 60.0

    def after(self, failures: int) -> float:
        """Return the delay after so many failures in a row."""
        return min(self.first * 2 ** min(failures - 1, 32), self.most)


@dataclass(order=True, slots=True)
class _Due(Generic[KeyT]):
    at: float
    order: int
    key: KeyT = field(compare=False)


class WorkQueue(Generic[KeyT]):
    """Bounded by the number of keys: each is queued, delayed or in progress at most once.

    clock: monotonic seconds.
    """

    def __init__(self, *, backoff: RetryDelay | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = backoff or RetryDelay()
        self._clock = clock
        self._due_at: dict[KeyT, float] = {}
        self._heap: list[_Due[KeyT]] = []
        self._order = 0
        self._working: set[KeyT] = set()
        self._failures: dict[KeyT, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Return how many keys are due now. A metrics scrape calls this from another thread."""
        now = self._clock()
        return sum(1 for key, at in self._due_at.copy().items() if at <= now and key not in self._working)

    def add(self, key: KeyT, *, after: float = 0.0) -> None:
        """Make a key due in `after` seconds, unless it is due earlier already."""
        at = self._clock() + max(0.0, after)
        if at < self._due_at.get(key, float("inf")):
            self._put(key, at)

    def retry(self, key: KeyT) -> float:
        """Make a failed key due again after its back-off; return the seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._backoff.after(self._failures[key])
        self.add(key, after=delay)
        return delay

    def succeeded(self, key: KeyT) -> None:
        """End a key's back-off."""
        self._failures.pop(key, None)

    @asynccontextmanager
    async def next_key(self) -> AsyncGenerator[KeyT]:
        """Wait for a due key that is not in progress; it is in progress inside this block."""
        key = await self._take()
        try:
            yield key
        finally:
            self._working.discard(key)
            if key in self._due_at:
                self._put(key, self._due_at[key])

    def _put(self, key: KeyT, at: float) -> None:
        self._due_at[key] = at
        self._order += 1
        heapq.heappush(self._heap, _Due(at, self._order, key))
        if len(self._heap) > 2 * len(self._due_at) + _SLACK:
            # Outdated entries stay in the heap until they are due, which may be days away.
            self._heap = [due for due in self._heap if self._due_at.get(due.key) == due.at]
            heapq.heapify(self._heap)
        self._changed.set()

    async def _take(self) -> KeyT:
        while True:
            self._changed.clear()
            key, wait = self._pop_due()
            if key is not None:
                return key
            try:
                # Without a delayed key, wait until one is added.
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _pop_due(self) -> tuple[KeyT | None, float | None]:
        """Return a due key, or else the seconds until the next one is due."""
        now = self._clock()
        while self._heap:
            first = self._heap[0]
            if self._due_at.get(first.key) != first.at or first.key in self._working:
                # An outdated entry, or a key in progress, which is queued again when its processing ends.
                heapq.heappop(self._heap)
            elif first.at > now:
                return None, first.at - now
            else:
                heapq.heappop(self._heap)
                del self._due_at[first.key]
                self._working.add(first.key)
                return first.key, None
        return None, None
