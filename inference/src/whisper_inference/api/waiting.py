"""Clients that wait for their answer: for how long, and what becomes of the job when one goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import TypeVar

import structlog
from fastapi import Request

from whisper_inference.api.dependencies import Services
from whisper_inference.api.intake import Accepted, disconnected
from whisper_inference.errors import JobCancelled, ServiceError, WaitedTooLong
from whisper_inference.jobs.events import Event, ModelLoadFailed
from whisper_inference.jobs.job import Status
from whisper_inference.jobs.service import JobService
from whisper_inference.model_control import ModelControl

Answer = TypeVar("Answer")

_MOST_DIGITS = 8

log = structlog.stdlib.get_logger(__name__)


async def wait_for_answer(
    request: Request,
    services: Services,
    accepted: Accepted,
    answer: Coroutine[None, None, Answer],
    *,
    at_most: float | None = None,
) -> Answer:
    """Return the answer, for as long as the client waits for it.

    at_most: seconds that the client prefers to wait. Raises WaitedTooLong after these, after WHISPER_MAX_WAIT, or when
    the server ends, while the job continues; JobCancelled when the client hung up.
    """
    jobs = services.jobs
    answering = asyncio.create_task(answer)
    gone = accepted.gone or asyncio.create_task(disconnected(request))
    longest = accepted.queue.limits.max_wait.total_seconds()
    limit = longest if at_most is None else min(at_most, longest)
    try:
        with jobs.client_of(accepted.job.id):
            done, _ = await asyncio.wait({answering, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if answering in done:
            if gone in done:
                # The answer comes too late: the client may repeat its request, which is to find it.
                await abandon(jobs, accepted)
            return answering.result()
    except asyncio.CancelledError:
        if jobs.accepting:
            raise
        # uvicorn's way to end what is left when its grace is over. The job is stored, and continues after the restart.
        seconds = round(time.monotonic() - accepted.at, 1)
        raise WaitedTooLong(job=accepted.job.id, seconds=seconds) from None
    finally:
        answering.cancel()
        gone.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)
    if done:
        await abandon(jobs, accepted)
        raise JobCancelled(job=accepted.job.id)
    await jobs.detach_client(accepted.job.id)
    retry_after = accepted.queue.model.facts().ready_in_seconds
    raise WaitedTooLong(job=accepted.job.id, seconds=limit, retry_after=retry_after)


def preferred_wait(request: Request) -> float | None:
    """Return the seconds after which a client prefers a job to an answer (RFC 7240); None: it has no preference.

    A preference that cannot be read is ignored, as the RFC demands.
    """
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.split(";", 1)[0].partition("=")
        match name.strip().lower(), value.strip().strip('"'):
            case "respond-async", _:
                return 0.0
            case "wait", seconds if seconds.isdecimal() and len(seconds) < _MOST_DIGITS:
                return float(seconds)
            case _:
                pass
    return None


async def raise_load_failure(services: Services, accepted: Accepted, event: Event) -> None:
    """Raise what keeps the model from being loaded for a job, if the event says so and it is still the case."""
    if isinstance(event, ModelLoadFailed):
        job = await services.jobs.get(accepted.job.id)
        if job.status is Status.QUEUED and job.waiting_for is not None:
            raise with_retry_after(accepted.queue.model, job.waiting_for.error())


def with_retry_after(model: ModelControl, error: ServiceError) -> ServiceError:
    """Return a stored error with the time of the next attempt, which it does not know."""
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        error.retry_after = model.facts().retry_after
    return error


async def abandon(jobs: JobService, accepted: Accepted) -> None:
    """Let go of the job of a client that hung up; with an idempotency key it goes on in any case."""
    log.info("job.client_gone", job=accepted.job.id)
    if accepted.job.idempotency_key is None:
        await jobs.abandon(accepted.job.id)
    else:
        await jobs.detach_client(accepted.job.id)
