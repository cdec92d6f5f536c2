"""Shares one call among concurrent callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")


class SharedCall(Generic[ResultT]):
    """Makes one call for all callers that arrive while the previous one runs: no answer is older than its request.

    However many callers there are, one call runs and one is next. A cancelled caller cancels neither.
    """

    def __init__(self, call: Callable[[], Awaitable[ResultT]]) -> None:
        self._call = call
        self._running: asyncio.Task[ResultT] | None = None
        self._next: asyncio.Task[ResultT] | None = None

    async def __call__(self) -> ResultT:
        """Return what the call returns, or raise what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._call_after(self._running))
            # All callers may have been cancelled, and then nobody retrieves an error.
            self._next.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(self._next)

    async def _call_after(self, before: asyncio.Task[ResultT] | None) -> ResultT:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        return await self._call()
