"""The end of a server: what it waits for, and what it tells of the rest."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from whisper_inference.errors import ServiceError
from whisper_inference.jobs.job import Status
from whisper_inference.jobs.uncollected import PATIENCE_SECONDS
from whisper_inference.lifecycle.machine import State

if TYPE_CHECKING:
    from whisper_inference.service.server import Server

log = structlog.stdlib.get_logger(__name__)

PUT_BACK_SECONDS = 10.0
"""For storing what came of the running job, at the end: one transaction, on a disk that may be slow."""
_LOOK_SECONDS = 1.0
"""Between two looks of a drain whether there still is work."""
_HOPELESS_LOADS = 3
"""So many failed loads in a row, the last of them during a drain, end it; fewer may be an accident that passes."""
_STORE_ERRORS = (ServiceError, SQLAlchemyError, OSError)
"""What a store raises that is busy for too long, or whose disk fails. A TimeoutError is an OSError."""
_LAST_LOOK_SECONDS = 5.0
"""For reading which jobs are left, at the end."""


async def finish_work(server: Server, limit: timedelta) -> None:
    """Wait until all accepted work is done and its results were fetched, at most for that long.

    Work is waited for only while the model can be loaded for it; those who fetch a result, PATIENCE_SECONDS after
    its job's end at most.
    """
    failures = server.lifecycle.failures
    with suppress(TimeoutError), server.owner.changes() as changed:
        async with asyncio.timeout(limit.total_seconds()):
            while await _has_work(server) and _can_load(server, failures):
                # A job that is cancelled before its turn changes nothing of the model's.
                with suppress(TimeoutError):
                    # Not wait_for: before Python 3.12 it may swallow the cancellation that is the outer limit.
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await changed.wait()
                changed.clear()
                # Another model, or a load that succeeded, has begun to count anew.
                failures = min(failures, server.lifecycle.failures)
            # A job's end is stored before it is told.
            await server.dispatcher.at_rest(PUT_BACK_SECONDS)
            if waited_for := server.uncollected.jobs:
                log.info("server.results_uncollected", jobs=waited_for, at_most_seconds=PATIENCE_SECONDS)
            await server.uncollected.all_collected()


async def _has_work(server: Server) -> bool:
    try:
        counts = await server.store.counts()
    except _STORE_ERRORS as error:
        # What cannot be seen may be work, and the drain has its limit.
        log.warning("server.work_unknown", reason=f"{type(error).__name__}: {error}")
        return True
    return counts[Status.QUEUED] + counts[Status.RUNNING] > 0 or server.arrivals > 0


def _can_load(server: Server, failures: int) -> bool:
    """Tell whether the jobs may still be served; failures: loads in a row that had failed before."""
    now = server.lifecycle
    hopeless = now.state is State.FAILED and now.failures > failures and now.failures >= _HOPELESS_LOADS
    return not hopeless or server.in_flight > 0


async def tell_left_jobs(server: Server) -> None:
    """Log what the end leaves undone; a data folder that outlives the server has it for the next start."""
    try:
        async with asyncio.timeout(_LAST_LOOK_SECONDS):
            pages = [await server.store.page(status=status) for status in (Status.RUNNING, Status.QUEUED)]
    except _STORE_ERRORS as error:
        log.warning("server.jobs_left_unknown", reason=f"{type(error).__name__}: {error}")
        return
    if left := [job.id for page in pages for job in page.jobs]:
        hopeless = server.lifecycle.state is State.FAILED
        log.warning(
            "server.jobs_left",
            jobs=left,
            more=any(page.next_cursor for page in pages),
            cause=str(server.owner.failure) if hopeless else "the server was told to stop",
            kept=f"queued in {server.settings.data_dir}, for the next start",
        )
