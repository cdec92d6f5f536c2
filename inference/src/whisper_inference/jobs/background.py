"""Tasks that nobody awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

ResultT = TypeVar("ResultT")

log = structlog.stdlib.get_logger(__name__)


class BackgroundTasks:
    """Runs tasks that nobody awaits: holds a reference until each ends, and logs the failures that are not expected.

    failure_event: the log event of such a failure. expected: errors that somebody else reports.
    """

    def __init__(self, failure_event: str, *, expected: type[Exception] | tuple[type[Exception], ...] = ()) -> None:
        self._failure_event = failure_event
        self._expected = expected
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, ResultT]) -> asyncio.Task[ResultT]:
        """Run a coroutine; its task may also be awaited or cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        await cancel_and_wait(*self._tasks)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, self._expected):
            log.error(self._failure_event, exc_info=error)


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
