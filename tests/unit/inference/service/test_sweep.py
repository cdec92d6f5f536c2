"""The sweep of jobs whose retention is over."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

import structlog

from whisper_inference.jobs.events import EventHub
from whisper_inference.jobs.job import StoredAudio
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.service.stored_jobs import StoredJobs


class Parts:
    """A store with three expired jobs, and a spool that cannot delete the first one's audio."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.done = asyncio.Event()

    async def sweep(self, retention: timedelta) -> tuple[StoredAudio, ...]:
        return tuple(StoredAudio(key, 1) for key in ("stuck", "b", "c"))

    async def delete(self, audio: StoredAudio) -> None:
        if audio.key == "stuck":
            raise OSError("I/O error")
        self.deleted.append(audio.key)
        if audio.key == "c":
            self.done.set()


async def test_sweep_continues_after_a_failed_deletion() -> None:
    parts = Parts()
    with structlog.testing.capture_logs() as logs:
        sweeping = asyncio.create_task(
            StoredJobs(cast("Any", parts), cast("Any", parts), EventHub(), UnfetchedResults()).sweep(timedelta(days=1))
        )
        async with asyncio.timeout(10):
            await parts.done.wait()
        sweeping.cancel()
    assert parts.deleted == ["b", "c"]
    assert [(line["event"], line["key"]) for line in logs] == [("jobs.audio_not_deleted", "stuck")]
