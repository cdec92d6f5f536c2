"""Fails the queued jobs whose clients limited how long they may wait, once that time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from whisper_inference.jobs.job import Job
from whisper_inference.jobs.store import JobStore

_LONGEST_SLEEP_SECONDS = 60.0
"""The clock may step, and another process may add a job."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """The limits of the queued jobs."""

    store: JobStore
    """Where the jobs are."""
    end: Callable[[Job], Awaitable[None]]
    """Called for each job that failed."""
    clock: Callable[[], datetime]
    """Returns the time in UTC."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a job with a limit was queued."""

    async def run(self) -> None:
        """Fail jobs on time, until cancelled."""
        while True:
            self.changed.clear()
            try:
                for job in await self.store.fail_overdue():
                    await self.end(job)
                seconds = await self._seconds_to_next()
            except Exception:
                log.exception("jobs.start_limits_not_checked", retry_seconds=_LONGEST_SLEEP_SECONDS)
                seconds = _LONGEST_SLEEP_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.changed.wait()

    async def _seconds_to_next(self) -> float:
        limit = await self.store.next_start_limit()
        if limit is None:
            return _LONGEST_SLEEP_SECONDS
        return min(_LONGEST_SLEEP_SECONDS, max(0.0, (limit - self.clock()).total_seconds()))
