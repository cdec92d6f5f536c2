"""Jobs: submitted, looked up, cancelled, and followed as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from whisper_inference.api.dependencies import JobsDep, ServicesDep, UserDep, no_unknown_queries
from whisper_inference.api.intake import Fields, accept_upload, boolean, number, one
from whisper_inference.api.problem import problem_of
from whisper_inference.api.schema import JOB_FORM, problems
from whisper_inference.errors import JobNotFound, MalformedRequest
from whisper_inference.jobs.events import (
    Done,
    JobEvent,
    Missed,
    ModelLoadFailed,
    ProgressMade,
    SegmentAdded,
    StatusChanged,
    TextAdded,
)
from whisper_inference.jobs.job import Job, Status
from whisper_inference.jobs.service import JobService
from whisper_inference.transcripts.formats import MEDIA_TYPES, Format, render_transcript
from whisper_inference.transcripts.languages import language_code
from whisper_inference.transcripts.transcript import Options, Task

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[Depends(no_unknown_queries)])

_FIELDS = frozenset({"language_in", "task", "word_timestamps", "initial_prompt", "temperature"})
_PING_SECONDS = 15


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


class JobPage(BaseModel):
    """Jobs, newest first; next_cursor: for the following ones."""

    jobs: list[JobView]
    next_cursor: str | None


async def visible_job(job_id: str, jobs: JobsDep, principal: UserDep) -> Job:
    """Return the job that the path names. Raises JobNotFound, also for a job that the caller may not see.

    Every route under a job's id takes its job from here, so that none can forget to check whose it is.
    """
    return await jobs.get(job_id, owner=principal.visible_owner)


JobDep = Annotated[Job, Depends(visible_job)]


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    openapi_extra=JOB_FORM,
    responses=problems(400, 409, 413, 415, 422, 429, 503, 507),
)
async def submit(request: Request, services: ServicesDep, principal: UserDep, response: Response) -> JobView:
    """Accept audio for transcription; it is stored before the answer. Header Idempotency-Key: one job per key."""
    accepted = await accept_upload(
        request, services, principal, fields=_FIELDS, options_of=_options_of, synchronous=False
    )
    response.headers["Location"] = f"/jobs/{accepted.job.id}"
    services.jobs.note_seen(accepted.job)
    return view_of(accepted.job, request)


@router.get("", responses=problems(400, 404))
async def index(
    request: Request,
    jobs: JobsDep,
    principal: UserDep,
    status: Annotated[Status | None, Query(description="Only jobs with this status.")] = None,
    cursor: Annotated[str | None, Query(description="next_cursor of an earlier page.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """List the caller's jobs, newest first; with the scope admin, everybody's."""
    try:
        page = await jobs.page(owner=principal.visible_owner, status=status, cursor=cursor, limit=limit)
    except JobNotFound:
        raise MalformedRequest(reason="the cursor is invalid: use next_cursor of an earlier page") from None
    return JobPage(jobs=[view_of(job, request) for job in page.jobs], next_cursor=page.next_cursor)


@router.get("/{job_id}", responses=problems(404))
async def show(job: JobDep, request: Request, jobs: JobsDep) -> JobView:
    """Return a job's status, and its text so far."""
    jobs.note_seen(job)
    return view_of(job, request, text=(await jobs.text(job.id)).strip())


@router.delete("/{job_id}", responses=problems(404))
async def cancel(job: JobDep, request: Request, jobs: JobsDep) -> JobView:
    """Cancel a job; a final one is unchanged."""
    return view_of(await jobs.cancel(job.id), request)


@router.get(
    "/{job_id}/result",
    responses=problems(400, 404, 409) | {200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
)
async def result(
    job: JobDep,
    jobs: JobsDep,
    format: Annotated[Format, Query(description="Format of the response.")] = "json",
) -> Response:
    """Return the transcript of a job that has succeeded; a failed one returns its error."""
    transcript = await jobs.transcript(job.id)
    granularities: list[Literal["segment", "word"]] = (
        ["segment", "word"] if job.options.word_timestamps else ["segment"]
    )
    body = await asyncio.to_thread(
        render_transcript, transcript, format, task=job.options.task, granularities=granularities
    )
    return Response(body, media_type=MEDIA_TYPES[format])


@router.get("/{job_id}/events", responses=problems(404) | {200: {"content": {"text/event-stream": {}}}})
async def events(job: JobDep, jobs: JobsDep) -> EventSourceResponse:
    """Follow a job: status, progress, segment, text, and done as the last event."""
    return EventSourceResponse(_follow(jobs, job.id), ping=_PING_SECONDS, send_timeout=_PING_SECONDS)


def view_of(job: Job, request: Request, text: str | None = None) -> JobView:
    """Return a job as clients see it."""
    language = request.headers.get("accept-language")
    return JobView(
        id=job.id,
        status=job.status,
        progress=job.progress,
        text=text,
        language=job.language or job.options.language,
        filename=job.filename,
        audio_seconds=job.audio_seconds,
        attempts=job.attempts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=problem_of(job.error.error(), language) if job.error else None,
        waiting_for=problem_of(job.waiting_for.error(), language) if job.waiting_for else None,
    )


def _options_of(fields: Fields) -> Options:
    return Options(
        language=language_code(one(fields, "language_in")),
        task=_task(one(fields, "task") or "transcribe"),
        word_timestamps=boolean(fields, "word_timestamps"),
        initial_prompt=one(fields, "initial_prompt") or None,
        temperature=number(fields, "temperature"),
    )


def _task(name: str) -> Task:
    match name:
        case "transcribe" | "translate":
            return name
        case _:
            raise MalformedRequest(reason="the field 'task' must be transcribe or translate")


async def _follow(jobs: JobService, job_id: str) -> AsyncIterator[ServerSentEvent]:
    """Yield what is already stored, then the events; no deadline, the client ends it."""
    with jobs.follow(job_id) as subscription:
        job = await jobs.get(job_id)
        jobs.note_seen(job)
        yield _sse("status", {"status": job.status})
        last_segment = -1
        for segment in await jobs.segments(job_id):
            last_segment = segment.id
            yield _sse("segment", asdict(segment))
        if job.status.final:
            yield _sse("done", {"status": job.status})
            return
        async for event in subscription:
            if isinstance(event, ModelLoadFailed):
                continue
            if isinstance(event, SegmentAdded):
                # Sent above already, or repeated by another attempt.
                if event.segment.id <= last_segment:
                    continue
                last_segment = event.segment.id
            yield _event_of(event)


def _event_of(event: JobEvent) -> ServerSentEvent:
    match event:
        case StatusChanged(status=status):
            return _sse("status", {"status": status})
        case ProgressMade(progress=progress):
            return _sse("progress", {"progress": progress})
        case SegmentAdded(segment=segment):
            return _sse("segment", asdict(segment))
        case TextAdded(text=text):
            return _sse("text", {"text": text})
        case Missed():
            return _sse("missed", {})
        case Done(status=status):
            return _sse("done", {"status": status})


def _sse(name: str, data: dict[str, object]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, ensure_ascii=False), event=name)
