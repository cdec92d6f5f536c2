"""Jobs: submitted, looked up, cancelled, and followed as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from whisper_inference.api.dependencies import JobsDep, Services, ServicesDep, UserDep, no_unknown_queries
from whisper_inference.api.intake import FormReader, accept_upload, boolean, number, one
from whisper_inference.api.job_view import JobView, queued_view, view_of
from whisper_inference.api.multipart import Fields
from whisper_inference.api.schema import JOB_FORM, problems
from whisper_inference.api.streaming import PING_SECONDS
from whisper_inference.api.timing import job_headers
from whisper_inference.errors import JobNotFound, MalformedRequest, ModelNotFound
from whisper_inference.jobs.events import (
    Done,
    JobEvent,
    Missed,
    ModelLoadFailed,
    Phase,
    PhaseChanged,
    ProgressMade,
    SegmentAdded,
    StatusChanged,
    TextAdded,
    phase_of,
)
from whisper_inference.jobs.job import Job, Status
from whisper_inference.transcripts.formats import MEDIA_TYPES, Format, render_transcript
from whisper_inference.transcripts.languages import language_code
from whisper_inference.transcripts.transcript import Options, Task
from whispermodel.durations import DurationError, parse_duration

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[Depends(no_unknown_queries)])

_FIELDS = frozenset({"language_in", "task", "word_timestamps", "initial_prompt", "temperature", "start_within"})


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
    accepted = await accept_upload(request, services, principal, reader=_READER)
    response.headers.update(job_headers(accepted))
    services.jobs.note_seen(accepted.job)
    return await queued_view(accepted.job, request, services)


@router.get("", responses=problems(400, 404))
async def index(
    request: Request,
    services: ServicesDep,
    principal: UserDep,
    status: Annotated[Status | None, Query(description="Only jobs with this status.")] = None,
    cursor: Annotated[str | None, Query(description="next_cursor of an earlier page.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """List the caller's jobs, newest first; with the scope admin, everybody's."""
    try:
        page = await services.jobs.page(owner=principal.visible_owner, status=status, cursor=cursor, limit=limit)
    except JobNotFound:
        raise MalformedRequest(reason="the cursor is invalid: use next_cursor of an earlier page") from None
    return JobPage(jobs=[view_of(job, request, services.models) for job in page.jobs], next_cursor=page.next_cursor)


@router.get("/{job_id}", responses=problems(404))
async def show(job: JobDep, request: Request, services: ServicesDep) -> JobView:
    """Return a job's status, and its text so far."""
    services.jobs.note_seen(job)
    text = (await services.jobs.text(job.id)).strip()
    return (await queued_view(job, request, services)).model_copy(update={"text": text})


@router.delete("/{job_id}", responses=problems(404))
async def cancel(job: JobDep, request: Request, services: ServicesDep) -> JobView:
    """Cancel a job; a final one is unchanged."""
    return view_of(await services.jobs.cancel(job.id), request, services.models)


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
async def events(job: JobDep, services: ServicesDep) -> EventSourceResponse:
    """Follow a job: status, phase, progress, segment, text, and done as the last event."""
    return EventSourceResponse(_follow(services, job), ping=PING_SECONDS, send_timeout=PING_SECONDS)


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


def _start_within_of(fields: Fields) -> timedelta | None:
    given = one(fields, "start_within")
    if not given:
        return None
    try:
        return parse_duration(given)
    except DurationError as error:
        raise MalformedRequest(reason=f"the field 'start_within' is invalid: {error}") from None


_READER = FormReader(_FIELDS, _options_of, start_within_of=_start_within_of)


async def _follow(services: Services, followed: Job) -> AsyncIterator[ServerSentEvent]:
    """Yield what is already stored, then the events; no deadline, the client ends it."""
    jobs, job_id = services.jobs, followed.id
    with jobs.follow(followed) as subscription:
        job = await jobs.get(job_id)
        jobs.note_seen(job)
        yield _sse("status", {"status": job.status})
        if job.status is Status.QUEUED and (phase := _phase_now(services, job)):
            yield _event_of(PhaseChanged(phase))
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


def _phase_now(services: Services, job: Job) -> Phase | None:
    with suppress(ModelNotFound):
        return phase_of(services.models.queue(job.model).model.facts().state)
    return None


def _event_of(event: JobEvent) -> ServerSentEvent:
    match event:
        case StatusChanged(status=status):
            return _sse("status", {"status": status})
        case PhaseChanged(phase=phase):
            return _sse("phase", {"phase": phase})
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
