"""One call for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")


class SharedCall(Generic[ResultT]):
    """Makes one call for all who ask while the one before it runs, so that each answer began after it was asked for.

    However many ask, one runs and one is to come. Who goes away ends neither.
    """

    def __init__(self, call: Callable[[], Awaitable[ResultT]]) -> None:
        self._call = call
        self._running: asyncio.Task[ResultT] | None = None
        self._coming: asyncio.Task[ResultT] | None = None

    async def __call__(self) -> ResultT:
        """Return what the call returns, or raise what it raises."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._call_after(self._running))
            # Somebody may have asked and gone away, and then nobody hears of an error.
            self._coming.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(self._coming)

    async def _call_after(self, before: asyncio.Task[ResultT] | None) -> ResultT:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._coming = self._coming, None
        return await self._call()
