"""How work comes in: the model begins to load at the headers, the audio goes to the spool, the job into the store."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fastapi import Request

from whisper_inference.api.multipart import Form, boundary_of, receive_form
from whisper_inference.auth import Principal
from whisper_inference.errors import AudioTooLarge, MalformedRequest
from whisper_inference.jobs.job import Added, Existing, Job, new_job_id
from whisper_inference.lifecycle.machine import Depth, State
from whisper_inference.service.server import Server
from whisper_inference.transcripts.languages import check_options
from whisper_inference.transcripts.transcript import Options

Fields = Mapping[str, Sequence[str]]

_PROBE_SECONDS = 30.0
_FORM_OVERHEAD_BYTES = 2**20
"""What a form's other fields and boundaries may add to the file in Content-Length."""
_MAX_KEY = 255
"""Bytes; a header is latin-1."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored job. at, upload_seconds: when its request came and how long the body took; found: the model's state
    then, cold or warm when it was not loaded and the job had not ended."""

    job: Job
    fields: Fields
    at: float
    upload_seconds: float
    found: Depth | None


@dataclass(frozen=True, slots=True)
class _Admission:
    """How a request was let in. withdraw: says that it brought no work; recheck: refuses new work after the upload."""

    withdraw: Callable[[], None]
    recheck: Callable[[], None]


async def take_in(
    request: Request,
    server: Server,
    principal: Principal,
    *,
    fields: frozenset[str],
    options_of: Callable[[Fields], Options],
    synchronous: bool,
) -> Accepted:
    """Store the request's audio and its job; nothing stays of a request that is refused.

    Raises what receive_form, the probe and the store raise.
    """
    at = time.monotonic()
    found = None if server.lifecycle.state is State.LOADED else server.lifecycle.depth
    _refuse_by_headers(request, server)
    key = request.headers.get("idempotency-key")
    async with _admitted(server, principal, key, synchronous=synchronous) as admission:
        form = await _received(request, server, fields=fields, options_of=options_of)
        upload_seconds = time.monotonic() - at
        job = _job_of(form, options_of(form.fields), principal, synchronous=synchronous, key=key)
        # Shielded: whoever is cancelled here cannot know whether the job is stored already, and must not undo it.
        storing = asyncio.create_task(_store(server, job, admission))
        server.keep(storing)
        added = await asyncio.shield(storing)
        if not isinstance(added, Added):
            # The job of an earlier request, which asks for the model itself if it still has to.
            admission.withdraw()
    return Accepted(added.job, form.fields, at, upload_seconds, None if added.job.status.final else found)


@asynccontextmanager
async def _admitted(
    server: Server, principal: Principal, key: str | None, *, synchronous: bool
) -> AsyncGenerator[_Admission]:
    """Load the model while the audio comes. A repeat is let in at any time, and loads nothing.

    Raises what Server.require_acceptable raises.
    """
    if key is not None and await server.store.has_key(principal.name, key):
        with server.arrival():
            yield _Admission(_nothing, server.require_acceptable)
        return
    server.require_acceptable()
    with server.arrival():
        async with server.owner.expected_work() as withdraw:
            yield _Admission(withdraw, server.require_loadable if synchronous else _nothing)


def _nothing() -> None:
    """Do nothing."""


async def _received(
    request: Request, server: Server, *, fields: frozenset[str], options_of: Callable[[Fields], Options]
) -> Form:
    def check(given: Fields) -> None:
        check_options(options_of(given), server.settings.model)

    return await receive_form(
        request.stream(),
        request.headers.get("content-type"),
        fields=fields,
        open_writer=lambda: server.spool.writer(server.settings.max_audio_bytes),
        check=check,
    )


def one(fields: Fields, name: str) -> str | None:
    """Return a field's only value; None when it is absent. Raises MalformedRequest when it came twice."""
    values = fields.get(name, ())
    if len(values) > 1:
        raise MalformedRequest(reason=f"the field '{name}' came more than once")
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


def _refuse_by_headers(request: Request, server: Server) -> None:
    boundary_of(request.headers.get("content-type"))
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > server.settings.max_audio_bytes + _FORM_OVERHEAD_BYTES:
        raise AudioTooLarge(limit_bytes=server.settings.max_audio_bytes)
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


async def _store(server: Server, job: Job, admission: _Admission) -> Added | Existing:
    """Store the job, or find the one that its key brought before; audio that no job needs is deleted."""
    try:
        added = await server.store.repeated(job) or await _stored_anew(server, job, admission)
    except Exception:
        await server.spool.delete(job.audio)
        raise
    if isinstance(added, Added):
        server.dispatcher.wake()
        return added
    await server.spool.delete(job.audio)
    if job.synchronous and not added.job.status.final:
        server.require_loadable()
    return added


async def _stored_anew(server: Server, job: Job, admission: _Admission) -> Added | Existing:
    probed = await _probed(server, job)
    # A load that failed during the upload is told now, not after the next attempt; and a key may be free again.
    admission.recheck()
    return await server.store.add(probed)


async def _probed(server: Server, job: Job) -> Job:
    """Return the job with its length, if nobody waits for it: a waiting client hears of bad audio from the worker."""
    path = server.spool.local_path(job.audio.key)
    if job.synchronous or path is None:
        return job
    info = await server.probe.run(path, max_seconds=server.settings.max_audio_seconds, timeout=_PROBE_SECONDS)
    return replace(job, audio_seconds=info.seconds)
