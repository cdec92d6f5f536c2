"""OpenAI's audio routes: one answer, or a stream of the text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from whisper_inference.api.dependencies import ModelDep, Services, ServicesDep, UserDep, no_unknown_queries
from whisper_inference.api.intake import Accepted, Fields, accept_upload, boolean, number, one
from whisper_inference.api.schema import TRANSCRIPTION_FORM, TRANSLATION_FORM, Responses, openai_errors
from whisper_inference.api.streaming import streamed
from whisper_inference.api.timing import timing_headers
from whisper_inference.api.waiting import raise_load_failure, wait_for_answer, with_retry_after
from whisper_inference.errors import MalformedRequest, ModelNotFound, ServiceError
from whisper_inference.jobs.events import Subscription
from whisper_inference.model_control import ModelControl, ModelFacts
from whisper_inference.transcripts.formats import MEDIA_TYPES, Format, Granularity, render_transcript
from whisper_inference.transcripts.languages import language_code
from whisper_inference.transcripts.transcript import Options, Task, Transcript
from whispermodel.catalog import canonical_size

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(no_unknown_queries)])

_COMMON = frozenset({"model", "prompt", "response_format", "temperature"})
_TRANSCRIPTION = _COMMON | {"language", "timestamp_granularities", "timestamp_granularities[]", "stream"}
_ANY_MODEL = "whisper-1"
_ANSWER: Responses = {200: {"content": {kind: {} for kind in (*MEDIA_TYPES.values(), "text/event-stream")}}}
_ERRORS = openai_errors(400, 404, 409, 413, 415, 422, 429, 503, 507) | _ANSWER


class ModelCard(BaseModel):
    """A model, as OpenAI lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("/models", responses=openai_errors())
async def models(model: ModelDep, _principal: UserDep) -> ModelList:
    """List the served model."""
    return ModelList(data=[_card(model.facts())])


@router.get("/models/{model}", responses=openai_errors(404))
async def model(model: str, served: ModelDep, _principal: UserDep) -> ModelCard:
    """Describe the served model."""
    facts = served.facts()
    _require_model(model, facts)
    return _card(facts)


@router.post("/audio/transcriptions", openapi_extra=TRANSCRIPTION_FORM, responses=_ERRORS)
async def transcribe(request: Request, services: ServicesDep, principal: UserDep) -> Response:
    """Transcribe audio in its language."""
    with ExitStack() as held:
        held.enter_context(services.jobs.waiting_client())
        accepted = await accept_upload(
            request,
            services,
            principal,
            fields=_TRANSCRIPTION,
            options_of=_options_reader(services.model, "transcribe"),
            synchronous=True,
        )
        if boolean(accepted.fields, "stream"):
            answer = await streamed(request, services, accepted)
            # The stream holds the waiting place from here on, and releases it at its own end.
            answer.hold(held.pop_all())
            return answer
        return await _answered(request, services, accepted)


@router.post("/audio/translations", openapi_extra=TRANSLATION_FORM, responses=_ERRORS)
async def translate(request: Request, services: ServicesDep, principal: UserDep) -> Response:
    """Translate speech into English text."""
    with services.jobs.waiting_client():
        options_of = _options_reader(services.model, "translate")
        accepted = await accept_upload(
            request, services, principal, fields=_COMMON, options_of=options_of, synchronous=True
        )
        return await _answered(request, services, accepted)


def _options_reader(model: ModelControl, task: Task) -> Callable[[Fields], Options]:
    def options_of(fields: Fields) -> Options:
        _require_model(one(fields, "model"), model.facts())
        wanted = _format_of(fields)
        granularities = _granularities_of(fields)
        if "word" in granularities and wanted != "verbose_json":
            raise MalformedRequest(reason="timestamp_granularities needs response_format=verbose_json")
        if boolean(fields, "stream") and wanted not in ("json", "text"):
            raise MalformedRequest(reason="a stream contains only text: response_format must be json or text")
        return Options(
            language=language_code(one(fields, "language")),
            task=task,
            word_timestamps="word" in granularities,
            initial_prompt=one(fields, "prompt") or None,
            temperature=number(fields, "temperature"),
        )

    return options_of


def _require_model(name: str | None, served: ModelFacts) -> None:
    if name in (None, "", _ANY_MODEL):
        return
    try:
        is_served = canonical_size(name) == served.name
    except ValueError:
        is_served = False
    if not is_served:
        raise ModelNotFound(model=name[:64])


def _card(served: ModelFacts) -> ModelCard:
    return ModelCard(id=served.name, owned_by=served.engine)


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
    job_id, wanted = accepted.job.id, _format_of(accepted.fields)
    with services.jobs.follow(job_id) as subscription:
        await wait_for_answer(request, services, accepted, _until_final(services, job_id, subscription))
    transcript = await _transcript(services, job_id)
    granularities = _granularities_of(accepted.fields)
    task = accepted.job.options.task
    body = await asyncio.to_thread(render_transcript, transcript, wanted, task=task, granularities=granularities)
    headers = await timing_headers(services, accepted)
    return Response(body, media_type=MEDIA_TYPES[wanted], headers=headers)


async def _transcript(services: Services, job_id: str) -> Transcript:
    try:
        return await services.jobs.transcript(job_id)
    except ServiceError as error:
        raise with_retry_after(services.model, error) from None


async def _until_final(services: Services, job_id: str, subscription: Subscription) -> None:
    """Wait until the job is final; no deadline, `wait_for_answer` has one. Raises what `raise_load_failure` raises."""
    if not (await services.jobs.get(job_id)).status.final:
        async for event in subscription:
            await raise_load_failure(services, job_id, event)
