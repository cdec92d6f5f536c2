"""OpenAI's audio routes: one answer, or a stream of the text."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from whisper_inference.api.dependencies import Services, ServicesDep, UserDep, no_unknown_queries
from whisper_inference.api.intake import Accepted, FormReader, accept_upload, boolean, number, one
from whisper_inference.api.job_view import JobView, queued_view
from whisper_inference.api.multipart import Fields
from whisper_inference.api.schema import TRANSCRIPTION_FORM, TRANSLATION_FORM, Responses, openai_errors
from whisper_inference.api.streaming import streamed
from whisper_inference.api.timing import job_headers, timing_headers
from whisper_inference.api.waiting import preferred_wait, raise_load_failure, wait_for_answer, with_retry_after
from whisper_inference.errors import MalformedRequest, ServiceError, WaitedTooLong
from whisper_inference.jobs.events import Subscription
from whisper_inference.jobs.models import ListedModel
from whisper_inference.transcripts.formats import MEDIA_TYPES, Format, Granularity, render_transcript
from whisper_inference.transcripts.languages import language_code
from whisper_inference.transcripts.transcript import Options, Task, Transcript
from whispermodel.states import State

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(no_unknown_queries)])

_COMMON = frozenset({"prompt", "response_format", "temperature"})
_TRANSCRIPTION = _COMMON | {"language", "timestamp_granularities", "timestamp_granularities[]", "stream"}
_ANSWER: Responses = {200: {"content": {kind: {} for kind in (*MEDIA_TYPES.values(), "text/event-stream")}}}
_ERRORS = openai_errors(400, 404, 409, 413, 415, 422, 429, 503, 507) | _ANSWER | {202: {"model": JobView}}


class ModelCard(BaseModel):
    """A model, as OpenAI lists it; state and aliases are additions."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str
    """What runs it, such as faster-whisper."""
    state: State
    """Where it stands. Reading it never loads the model."""
    aliases: list[str]
    """Other names that requests may use."""


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("/models", responses=openai_errors())
async def models(services: ServicesDep, _principal: UserDep) -> ModelList:
    """List the served models."""
    return ModelList(data=[_card(model) for model in services.models.listed()])


@router.get("/models/{model:path}", responses=openai_errors(400, 404))
async def model(model: str, services: ServicesDep, _principal: UserDep) -> ModelCard:
    """Describe a served model."""
    found = services.models.find(model)
    return next(_card(one) for one in services.models.listed() if services.models.find(one.name) is found)


@router.post("/audio/transcriptions", openapi_extra=TRANSCRIPTION_FORM, responses=_ERRORS)
async def transcribe(request: Request, services: ServicesDep, principal: UserDep) -> Response:
    """Transcribe audio in its language."""
    with ExitStack() as held:
        accepted = await accept_upload(request, services, principal, reader=_TRANSCRIPTIONS, waits=held)
        if boolean(accepted.fields, "stream"):
            answer = await streamed(request, services, accepted)
            # The stream holds the waiting place from here on, and releases it at its own end.
            answer.hold(held.pop_all())
            return answer
        return await _answered(request, services, accepted)


@router.post("/audio/translations", openapi_extra=TRANSLATION_FORM, responses=_ERRORS)
async def translate(request: Request, services: ServicesDep, principal: UserDep) -> Response:
    """Translate speech into English text."""
    with ExitStack() as held:
        accepted = await accept_upload(request, services, principal, reader=_TRANSLATIONS, waits=held)
        return await _answered(request, services, accepted)


def _reader(fields: frozenset[str], task: Task) -> FormReader:
    def options_of(fields: Fields) -> Options:
        _format_of(fields)
        boolean(fields, "stream")
        return Options(
            language=language_code(one(fields, "language")),
            task=task,
            word_timestamps="word" in _granularities_of(fields),
            initial_prompt=one(fields, "prompt") or None,
            temperature=number(fields, "temperature"),
        )

    return FormReader(fields, options_of, _check_combination)


def _check_combination(fields: Fields) -> None:
    wanted = _format_of(fields)
    if "word" in _granularities_of(fields) and wanted != "verbose_json":
        raise MalformedRequest(reason="timestamp_granularities needs response_format=verbose_json")
    if boolean(fields, "stream") and wanted not in ("json", "text"):
        raise MalformedRequest(reason="a stream contains only text: response_format must be json or text")


_FEW_SEGMENTS = 20
_TRANSCRIPTIONS = _reader(_TRANSCRIPTION, "transcribe")
_TRANSLATIONS = _reader(_COMMON, "translate")


def _card(model: ListedModel) -> ModelCard:
    return ModelCard(id=model.name, owned_by=model.engine, state=model.state, aliases=list(model.aliases))


def _format_of(fields: Fields) -> Format:
    wanted = one(fields, "response_format") or "json"
    for known in MEDIA_TYPES:
        if wanted == known:
            return known
    raise MalformedRequest(reason=f"response_format must be one of {', '.join(MEDIA_TYPES)}")


def _granularities_of(fields: Fields) -> tuple[Granularity, ...]:
    given = (*fields.get("timestamp_granularities", ()), *fields.get("timestamp_granularities[]", ()))
    granularities: list[Granularity] = []
    for name in given:
        match name:
            case "segment" | "word":
                granularities.append(name)
            case _:
                raise MalformedRequest(reason="timestamp_granularities must be segment or word")
    return tuple(granularities) or ("segment",)


async def _answered(request: Request, services: Services, accepted: Accepted) -> Response:
    wanted, patience = _format_of(accepted.fields), preferred_wait(request)
    with services.jobs.follow(accepted.job) as subscription:
        final = _until_final(services, accepted, subscription)
        try:
            await wait_for_answer(request, services, accepted, final, at_most=patience)
        except WaitedTooLong:
            if patience is None:
                raise
            return await _job_instead(request, services, accepted, patience)
    transcript = await _transcript(services, accepted)
    granularities = _granularities_of(accepted.fields)
    task = accepted.job.options.task
    render = partial(render_transcript, transcript, wanted, task=task, granularities=granularities)
    # A few segments take less time than the way to another thread.
    body = render() if len(transcript.segments) <= _FEW_SEGMENTS else await asyncio.to_thread(render)
    headers = await timing_headers(services, accepted)
    return Response(body, media_type=MEDIA_TYPES[wanted], headers=headers)


async def _job_instead(request: Request, services: Services, accepted: Accepted, patience: float) -> Response:
    """Answer with the job: the client preferred not to wait for longer (RFC 7240)."""
    job = await queued_view(await services.jobs.get(accepted.job.id), request, services)
    applied = {"Preference-Applied": f"wait={patience:g}" if patience else "respond-async"}
    headers = {**job_headers(accepted), **applied}
    return JSONResponse(job.model_dump(mode="json"), HTTPStatus.ACCEPTED, headers)


async def _transcript(services: Services, accepted: Accepted) -> Transcript:
    try:
        return await services.jobs.transcript(accepted.job.id)
    except ServiceError as error:
        raise with_retry_after(accepted.queue.model, error) from None


async def _until_final(services: Services, accepted: Accepted, subscription: Subscription) -> None:
    """Wait until the job is final; no deadline, `wait_for_answer` has one. Raises what `raise_load_failure` raises."""
    if not (await services.jobs.get(accepted.job.id)).status.final:
        async for event in subscription:
            await raise_load_failure(services, accepted, event)
