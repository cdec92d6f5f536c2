"""The end of a server: what it waits for, and which unfinished jobs it logs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from whisper_inference.errors import ServiceError
from whisper_inference.jobs.job import Status
from whisper_inference.jobs.model_queue import ModelQueue
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import CLIENT_WAIT_SECONDS
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.service.executions import Executions
from whisper_inference.service.stored_jobs import STORE_OUTCOME_SECONDS
from whispermodel.states import State

log = structlog.stdlib.get_logger(__name__)

_POLL_SECONDS = 1.0
"""How often a drain checks for remaining work that nothing signals."""
_MAX_FAILED_LOADS = 3
"""So many failed loads in a row, the last of them during a drain, end it; fewer may be a passing accident."""
_STORE_ERRORS = (ServiceError, SQLAlchemyError, OSError)
"""What a store raises that is busy for too long, or whose disk fails. A TimeoutError is an OSError."""
_LIST_SECONDS = 5.0
"""For reading which jobs are unfinished, at the end."""


async def finish_work(limit: timedelta, *, queue: ModelQueue, executions: Executions, owner: LifecycleOwner) -> None:
    """Wait until all accepted work is done and its results were fetched, at most for that long.

    Work is waited for only while the model can be loaded for it; clients that fetch a result, for CLIENT_WAIT_SECONDS
    after their job's end at most.
    """
    jobs, failures = queue.jobs, owner.lifecycle.failures
    with suppress(TimeoutError), owner.changes() as changed:
        async with asyncio.timeout(limit.total_seconds()):
            while executions.callers or (await _has_work(jobs) and _can_load(owner, queue, failures=failures)):
                # Cancelling a queued job changes nothing in the lifecycle.
                with suppress(TimeoutError):
                    # Not wait_for: before Python 3.12 it may swallow the cancellation that is the outer limit.
                    async with asyncio.timeout(_POLL_SECONDS):
                        await changed.wait()
                changed.clear()
                # Another model, or a load that succeeded, starts the count anew.
                failures = min(failures, owner.lifecycle.failures)
            # A job's end is stored before it is published.
            await jobs.dispatcher.settled(STORE_OUTCOME_SECONDS)
            if waited_for := jobs.unfetched.jobs:
                log.info("server.results_unfetched", jobs=waited_for, at_most_seconds=CLIENT_WAIT_SECONDS)
            await jobs.unfetched.all_fetched()


async def _has_work(jobs: JobService) -> bool:
    try:
        counts = await jobs.store.counts()
    except _STORE_ERRORS as error:
        # What cannot be read may be work, and the drain has its limit.
        log.warning("server.work_unknown", reason=f"{type(error).__name__}: {error}")
        return True
    return counts[Status.QUEUED] + counts[Status.RUNNING] > 0 or jobs.arrivals > 0


def _can_load(owner: LifecycleOwner, queue: ModelQueue, *, failures: int) -> bool:
    """Return whether the jobs may still be served; failures: consecutive failed loads before."""
    now = owner.lifecycle
    hopeless = now.state is State.FAILED and now.failures > failures and now.failures >= _MAX_FAILED_LOADS
    return not hopeless or queue.in_flight > 0


async def log_unfinished_jobs(store: JobStore, *, owner: LifecycleOwner, data_dir: Path) -> None:
    """Log what the end leaves undone; a data folder that outlives the server keeps it for the next start."""
    try:
        async with asyncio.timeout(_LIST_SECONDS):
            pages = [await store.page(status=status) for status in (Status.RUNNING, Status.QUEUED)]
    except _STORE_ERRORS as error:
        log.warning("server.jobs_left_unknown", reason=f"{type(error).__name__}: {error}")
        return
    if left := [job.id for page in pages for job in page.jobs]:
        hopeless = owner.lifecycle.state is State.FAILED
        log.warning(
            "server.jobs_left",
            jobs=left,
            more=any(page.next_cursor for page in pages),
            cause=str(owner.failure) if hopeless else "the server is stopping",
            kept=f"queued in {data_dir}, for the next start",
        )
