"""Results that nobody has fetched yet: a server that ends with its data folder would take them along."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

PATIENCE_SECONDS = 30.0
"""For how long after a job's end its client is waited for: several times what clients leave between two questions."""
_FETCH_SECONDS = 5.0
"""For how long a client is waited for who knows that the job has ended: it has only to ask for the result."""


class Uncollected:
    """The jobs that ended a moment ago, until their results are fetched. Use it from the event loop's thread only."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS, fetch_seconds: float = _FETCH_SECONDS) -> None:
        self._patience = patience_seconds
        self._fetch = fetch_seconds
        self._until: dict[str, float] = {}
        self._changed = asyncio.Event()

    @property
    def jobs(self) -> list[str]:
        """Return the ids of the jobs that are still waited for."""
        self._forget_old()
        return list(self._until)

    def add(self, job_id: str) -> None:
        """Note that a job has ended."""
        self._forget_old()
        self._until[job_id] = time.monotonic() + self._patience

    def note_seen(self, job_id: str) -> None:
        """Note that somebody knows that a job has ended, and may come for its result now."""
        if (until := self._until.get(job_id)) is not None:
            self._until[job_id] = min(until, time.monotonic() + self._fetch)
            self._changed.set()

    def discard(self, job_id: str) -> None:
        """Note that somebody has a job's result."""
        if self._until.pop(job_id, None) is not None:
            self._changed.set()

    async def all_collected(self) -> None:
        """Wait until nothing is left, or what is left has been waited for long enough."""
        while self.jobs:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._until.values()) - time.monotonic()):
                    await self._changed.wait()

    def _forget_old(self) -> None:
        now = time.monotonic()
        for job_id in [job_id for job_id, until in self._until.items() if until <= now]:
            del self._until[job_id]
