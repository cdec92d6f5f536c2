"""Clients who wait for their answer: how many may, for how long, and what becomes of the job when one goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

import structlog
from fastapi import Request

from whisper_inference.api.intake import Accepted
from whisper_inference.errors import JobCancelled, ServiceError, TooManyWaiting, WaitedTooLong
from whisper_inference.jobs.events import Event, LoadFailed
from whisper_inference.jobs.job import Status
from whisper_inference.service.server import Server

Answer = TypeVar("Answer")

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


async def patiently(
    request: Request, server: Server, accepted: Accepted, answer: Coroutine[None, None, Answer]
) -> Answer:
    """Return the answer, for as long as the client waits for it.

    Raises WaitedTooLong after WHISPER_MAX_WAIT or when the server ends, the job goes on; JobCancelled when the client
    hung up.
    """
    answering = asyncio.create_task(answer)
    gone = asyncio.create_task(_disconnected(request))
    limit = server.settings.max_wait.total_seconds()
    try:
        done, _ = await asyncio.wait({answering, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if answering in done:
            return answering.result()
    except asyncio.CancelledError:
        if server.accepting:
            raise
        # uvicorn's way to end what is left when its grace is over. The job is stored, and goes on after the restart.
        seconds = round(time.monotonic() - accepted.at, 1)
        raise WaitedTooLong(job=accepted.job.id, seconds=seconds) from None
    finally:
        answering.cancel()
        gone.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)
    if done:
        await abandon(server, accepted)
        raise JobCancelled(job=accepted.job.id)
    await server.store.let_go(accepted.job.id)
    raise WaitedTooLong(job=accepted.job.id, seconds=limit, retry_after=server.ready_in_seconds())


async def require_progress(server: Server, job_id: str, event: Event) -> None:
    """Raise what keeps the model from being loaded for a job, if an event tells of that and it is still so."""
    if isinstance(event, LoadFailed):
        job = await server.store.get(job_id)
        if job.status is Status.QUEUED and job.waiting_for is not None:
            raise as_told_now(server, job.waiting_for.error())


def as_told_now(server: Server, error: ServiceError) -> ServiceError:
    """Return a stored error with when to ask again: it does not know how the back-off stands."""
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        error.retry_after = server.owner.retry_after or server.ready_in_seconds()
    return error


async def abandon(server: Server, accepted: Accepted) -> None:
    """End the job of a client that hung up, unless an idempotency key says that it will come back."""
    log.info("job.client_gone", job=accepted.job.id)
    if accepted.job.idempotency_key is None:
        await server.dispatcher.cancel(accepted.job.id)
    else:
        await server.store.let_go(accepted.job.id)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
