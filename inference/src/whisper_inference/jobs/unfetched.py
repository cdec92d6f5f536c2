"""Results that nobody has fetched yet: they would be lost with a server whose data folder ends with it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

CLIENT_WAIT_SECONDS = 30.0
"""How long after a job's end to wait for its client: several times a client's usual polling interval."""
_FETCH_SECONDS = 5.0
"""How long to wait for a client that knows that the job has ended: it only has to fetch the result."""


class UnfetchedResults:
    """The jobs that ended recently, until their results are fetched. Use it from the event loop's thread only."""

    def __init__(self, wait_seconds: float = CLIENT_WAIT_SECONDS, fetch_seconds: float = _FETCH_SECONDS) -> None:
        self._wait = wait_seconds
        self._fetch = fetch_seconds
        self._until: dict[str, float] = {}
        self._changed = asyncio.Event()

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs whose results are still waited for."""
        self._forget_old()
        return list(self._until)

    def add(self, job_id: str) -> None:
        """Note that a job has ended."""
        self._forget_old()
        self._until[job_id] = time.monotonic() + self._wait

    def note_seen(self, job_id: str) -> None:
        """Note that a client knows that a job has ended, and may fetch its result now."""
        if (until := self._until.get(job_id)) is not None:
            self._until[job_id] = min(until, time.monotonic() + self._fetch)
            self._changed.set()

    def discard(self, job_id: str) -> None:
        """Note that a client has fetched a job's result."""
        if self._until.pop(job_id, None) is not None:
            self._changed.set()

    async def all_fetched(self) -> None:
        """Wait until every result is fetched or its time is over."""
        while self.jobs:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._until.values()) - time.monotonic()):
                    await self._changed.wait()

    def _forget_old(self) -> None:
        now = time.monotonic()
        for job_id in [job_id for job_id, until in self._until.items() if until <= now]:
            del self._until[job_id]
