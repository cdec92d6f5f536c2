"""A job as clients see it."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from fastapi import Request
from pydantic import BaseModel

from whisper_inference.api.dependencies import Services
from whisper_inference.api.problem import problem_of
from whisper_inference.errors import ModelNotFound
from whisper_inference.jobs.job import Job, Status
from whisper_inference.jobs.models import Models


class JobView(BaseModel):
    """A job."""

    id: str
    """A UUID."""
    status: Status
    """Where it stands."""
    progress: float
    """0 to 1."""
    text: str | None = None
    """The text so far."""
    language: str | None
    """As given or detected."""
    filename: str
    """Of the upload."""
    audio_seconds: float | None
    """Length of the audio."""
    attempts: int
    """Starts so far, of 3."""
    created_at: datetime
    """When it was accepted."""
    started_at: datetime | None
    """When its first attempt started."""
    finished_at: datetime | None
    """When it became final."""
    error: dict[str, object] | None = None
    """Why it failed."""
    waiting_for: dict[str, object] | None = None
    """Why it is not started."""
    start_by: datetime | None = None
    """When the job fails if it has not started; null: it waits as long as it takes, or has started."""
    model: str | None = None
    """The WhisperModel that it needs; null at a server, which has one model."""
    position: int | None = None
    """How many jobs of its model are due before it; null unless it is queued."""
    expected_wait_seconds: float | None = None
    """Until it is likely to start, by the measured speed of its model; null while nothing was measured."""


def view_of(job: Job, request: Request, models: Models) -> JobView:
    """Return a job as a list shows it."""
    language = request.headers.get("accept-language")
    return JobView(
        id=job.id,
        status=job.status,
        progress=job.progress,
        language=job.language or job.options.language,
        filename=job.filename,
        audio_seconds=job.audio_seconds,
        attempts=job.attempts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=problem_of(job.error.error(), language) if job.error else None,
        waiting_for=problem_of(job.waiting_for.error(), language) if job.waiting_for else None,
        start_by=job.start_by,
        model=models.shown(job.model),
    )


async def queued_view(job: Job, request: Request, services: Services) -> JobView:
    """Return a job with its place in the queue, if it has one."""
    view = view_of(job, request, services.models)
    if job.status is not Status.QUEUED:
        return view
    place: dict[str, object] = {}
    # A model that is gone has no speed, and its jobs still have a place.
    with suppress(ModelNotFound):
        queue = services.models.queue(job.model)
        position, seconds = await queue.outlook(job)
        place = {"position": position, "expected_wait_seconds": seconds}
    return view.model_copy(update=place)
