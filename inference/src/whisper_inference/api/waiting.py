"""Clients who wait for their answer: how many may, for how long, and what becomes of the job when one goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import structlog
from fastapi import Request

from whisper_inference.api.intake import Accepted
from whisper_inference.errors import JobCancelled, TooManyWaiting, WaitedTooLong
from whisper_inference.jobs.events import Subscription
from whisper_inference.server import Server

log = structlog.stdlib.get_logger(__name__)


@contextmanager
def place_to_wait(server: Server) -> Generator[None]:
    """Hold one of the WHISPER_MAX_WAITING places. Raises TooManyWaiting."""
    room = server.room
    if room.waiting >= room.limit:
        raise TooManyWaiting(limit=room.limit, retry_after=server.ready_in_seconds() or 1)
    room.waiting += 1
    try:
        yield
    finally:
        room.waiting -= 1


async def until_done(request: Request, server: Server, accepted: Accepted, subscription: Subscription) -> None:
    """Wait until the job is final.

    Raises WaitedTooLong after WHISPER_MAX_WAIT; the job goes on. A client that hangs up ends its job, unless an
    idempotency key says that it will come back.
    """
    job = await server.store.get(accepted.job.id)
    if job.status.final:
        return
    finished = asyncio.create_task(_exhaust(subscription))
    gone = asyncio.create_task(_disconnected(request))
    try:
        limit = server.settings.max_wait.total_seconds()
        done, _ = await asyncio.wait({finished, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished.cancel()
        gone.cancel()
    if not done:
        raise waited_too_long(server, job.id)
    if finished not in done:
        await _abandon(server, accepted)


def waited_too_long(server: Server, job_id: str) -> WaitedTooLong:
    """Return the error of a client whose patience has ended."""
    seconds = server.settings.max_wait.total_seconds()
    return WaitedTooLong(job=job_id, seconds=seconds, retry_after=server.ready_in_seconds())


async def _abandon(server: Server, accepted: Accepted) -> None:
    log.info("job.client_gone", job=accepted.job.id)
    if accepted.job.idempotency_key is None:
        await server.dispatcher.cancel(accepted.job.id)
    raise JobCancelled(job=accepted.job.id)


async def _exhaust(subscription: Subscription) -> None:
    async for _ in subscription:
        pass


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
