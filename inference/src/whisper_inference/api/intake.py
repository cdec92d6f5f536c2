"""How work comes in: the model starts to load at the headers, the audio goes to the spool, the job into the store."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Request

from whisper_inference.api.auth import Principal
from whisper_inference.api.dependencies import Services, repeated
from whisper_inference.api.multipart import Form, boundary_of, receive_form
from whisper_inference.errors import AudioTooLarge, MalformedRequest
from whisper_inference.jobs.job import Job, new_job_id
from whisper_inference.jobs.limits import Limits
from whisper_inference.transcripts.languages import check_options
from whisper_inference.transcripts.transcript import Options
from whispermodel.states import Depth, State

Fields = Mapping[str, Sequence[str]]

_FORM_OVERHEAD_BYTES = 2**20
"""Allowance in Content-Length for a form's other fields and boundaries."""
_MAX_KEY = 255
"""Bytes; a header is latin-1."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored job, and the request that brought it."""

    job: Job
    """As it was stored, or as an earlier request with the same key left it."""
    fields: Fields
    """The form's fields."""
    at: float
    """When the request came (monotonic clock)."""
    upload_seconds: float
    """How long its body took."""
    found: Depth | None
    """What the request found of an unloaded model; None when it was loaded or the job had ended."""


async def accept_upload(
    request: Request,
    services: Services,
    principal: Principal,
    *,
    fields: frozenset[str],
    options_of: Callable[[Fields], Options],
    synchronous: bool,
) -> Accepted:
    """Store the request's audio and its job; nothing remains of a request that is refused.

    Raises what receive_form, JobService.admit and JobService.add raise.
    """
    at = time.monotonic()
    model = services.model.facts()
    found = None if model.state is State.LOADED else model.depth
    _refuse_by_headers(request, services.jobs.limits)
    key = request.headers.get("idempotency-key")
    async with services.jobs.admit(principal.name, idempotency_key=key, synchronous=synchronous) as admission:
        form = await _received(request, services, fields=fields, options_of=options_of)
        upload_seconds = time.monotonic() - at
        job = _job_of(form, options_of(form.fields), principal, synchronous=synchronous, key=key)
        added = await admission.add(job)
    return Accepted(added.job, form.fields, at, upload_seconds, None if added.job.status.final else found)


async def _received(
    request: Request, services: Services, *, fields: frozenset[str], options_of: Callable[[Fields], Options]
) -> Form:
    def check(given: Fields) -> None:
        check_options(options_of(given), services.model.facts().name)

    return await receive_form(
        request.stream(),
        request.headers.get("content-type"),
        fields=fields,
        open_writer=services.jobs.audio_writer,
        check=check,
    )


def one(fields: Fields, name: str) -> str | None:
    """Return a field's only value; None when it is absent. Raises MalformedRequest when it came twice."""
    values = fields.get(name, ())
    if len(values) > 1:
        raise repeated(f"the field '{name}'")
    return values[0] if values else None


def boolean(fields: Fields, name: str) -> bool:
    """Return a field that says true or false, absent: false. Raises MalformedRequest."""
    value = (one(fields, name) or "false").strip().lower()
    if value not in ("true", "false", "1", "0"):
        raise MalformedRequest(reason=f"the field '{name}' must be true or false")
    return value in ("true", "1")


def number(fields: Fields, name: str) -> float | None:
    """Return a field that is a number, absent or empty: None. Raises MalformedRequest."""
    value = one(fields, name)
    if value is None or not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        raise MalformedRequest(reason=f"the field '{name}' must be a number") from None


def _refuse_by_headers(request: Request, limits: Limits) -> None:
    boundary_of(request.headers.get("content-type"))
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.max_audio_bytes + _FORM_OVERHEAD_BYTES:
        raise AudioTooLarge(limit_bytes=limits.max_audio_bytes)
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise MalformedRequest(reason="there is more than one Idempotency-Key")
    if keys and not keys[0].strip(" \t"):
        raise MalformedRequest(reason="the Idempotency-Key is empty")
    if keys and len(keys[0]) > _MAX_KEY:
        raise MalformedRequest(reason=f"the Idempotency-Key is longer than {_MAX_KEY} bytes")


def _job_of(form: Form, options: Options, principal: Principal, *, synchronous: bool, key: str | None) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=new_job_id(now, secrets.token_bytes),
        options=options,
        filename=form.filename,
        audio=form.file,
        principal=principal.name,
        created_at=now,
        synchronous=synchronous,
        idempotency_key=key,
    )
