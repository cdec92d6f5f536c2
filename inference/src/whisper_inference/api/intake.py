"""How work comes in: the model starts to load at the headers, the audio goes to the spool, the job into the store."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fastapi import Request

from whisper_inference.api.auth import Principal
from whisper_inference.api.dependencies import Services, repeated, requested_model
from whisper_inference.api.multipart import Fields, Form, boundary_of, receive_form
from whisper_inference.errors import AudioTooLarge, MalformedRequest, ModelNotNamed
from whisper_inference.jobs.job import LOCAL, Job, new_job_id
from whisper_inference.jobs.limits import Limits, WaitingPlace
from whisper_inference.jobs.model_queue import Admission, ModelQueue
from whisper_inference.jobs.models import ANY_MODEL
from whisper_inference.jobs.service import WaitingRequest
from whisper_inference.jobs.spool import SpoolWriter
from whisper_inference.transcripts.languages import check_options
from whisper_inference.transcripts.transcript import Options
from whispermodel.states import Depth, State

_FORM_OVERHEAD_BYTES = 2**20
"""Allowance in Content-Length for a form's other fields and boundaries."""
_MAX_KEY = 255
"""Bytes; a header is latin-1."""


@dataclass(frozen=True, slots=True)
class FormReader:
    """How a route reads its form."""

    fields: frozenset[str]
    """The fields that it knows, besides the file."""
    options_of: Callable[[Fields], Options]
    """Returns what the client asks for. Raises MalformedRequest."""
    check: Callable[[Fields], None] = lambda _fields: None
    """Refuses, by raising, fields that do not go together."""
    start_within_of: Callable[[Fields], timedelta | None] = lambda _fields: None
    """Returns how long the job may wait before it starts; None: as long as it takes. Raises MalformedRequest."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored job, and the request that brought it."""

    job: Job
    """As it was stored, or as an earlier request with the same key left it."""
    queue: ModelQueue
    """The model that it waits for."""
    fields: Fields
    """The form's fields."""
    at: float
    """When the request came (monotonic clock)."""
    upload_seconds: float
    """How long its body took."""
    found: Depth | None
    """What the request found of an unloaded model; None when it was loaded or the job had ended."""
    gone: asyncio.Future[None] | None = None
    """Done when the client hangs up; None: the client does not wait."""


async def accept_upload(
    request: Request,
    services: Services,
    principal: Principal,
    *,
    reader: FormReader,
    waits: ExitStack | None = None,
) -> Accepted:
    """Store the request's audio and its job; nothing remains of a request that is refused.

    waits: where a client that waits for its answer holds its place among the waiting ones; None: it does not wait.
    Raises what receive_form, ModelQueue.admit, ModelQueue.add and Models.find raise.
    """
    return await _Arrived(request, services, principal, reader=reader, waits=waits).accept()


class _Arrived:
    """A request on its way in: it is admitted to its model as soon as that is known, before its audio is read if so."""

    def __init__(
        self, request: Request, services: Services, principal: Principal, *, reader: FormReader, waits: ExitStack | None
    ) -> None:
        self._request = request
        self._services = services
        self._principal = principal
        self._reader = reader
        self._waits = waits
        self._at = time.monotonic()
        self._named = requested_model(request)
        self._key = _key_of(request)
        self._admitted = AsyncExitStack()
        self._queue: ModelQueue | None = None
        self._admission: Admission | None = None
        self._found: Depth | None = None
        self._place: WaitingPlace | None = None

    async def accept(self) -> Accepted:
        """Read the form and store its job."""
        boundary_of(self._request.headers.get("content-type"))
        async with self._admitted:
            queue = self._services.models.at_headers(self._named)
            if queue is not None:
                await self._admit(queue)
            form = await self._received()
            upload_seconds = time.monotonic() - self._at
            if self._place is not None:
                self._place.note_uploaded()
            assert self._queue is not None
            assert self._admission is not None
            job = self._job_of(form)
            request = self._waiting(job)
            adding = self._admission.add(job)
            added = await (request.storing(adding) if request else adding)
        found = None if added.job.status.final else self._found
        gone = request.gone if request else None
        return Accepted(added.job, self._queue, form.fields, self._at, upload_seconds, found, gone)

    def _waiting(self, job: Job) -> WaitingRequest | None:
        """Keep a request whose client waits, until its answer."""
        if self._waits is None:
            return None
        gone = asyncio.create_task(disconnected(self._request))
        self._waits.callback(gone.cancel)
        return self._waits.enter_context(self._services.jobs.waiting(job, gone))

    async def _received(self) -> Form:
        return await receive_form(
            self._request.stream(),
            self._request.headers.get("content-type"),
            fields=self._reader.fields | {"model"},
            open_writer=self._audio_writer,
            on_fields=self._on_fields,
        )

    def _audio_writer(self) -> AbstractAsyncContextManager[SpoolWriter]:
        length = self._request.headers.get("content-length", "")
        return self._services.jobs.audio_writer(
            self._services.models.max_audio_bytes,
            # The form may name the model only after the file.
            model=self._queue.key if self._queue else LOCAL,
            principal=self._principal.name,
            expected_bytes=int(length) if length.isdecimal() else None,
        )

    async def _on_fields(self, fields: Fields, complete: bool) -> None:
        options = self._reader.options_of(fields)
        self._reader.start_within_of(fields)
        if complete:
            self._reader.check(fields)
        queue = self._queue_of(one(fields, "model"), complete=complete)
        if queue is None:
            return
        check_options(options, queue.model.facts().name)
        if self._queue is None:
            await self._admit(queue)
        elif queue is not self._queue:
            raise MalformedRequest(reason="its form names another model than its path or header")

    def _queue_of(self, in_form: str | None, *, complete: bool) -> ModelQueue | None:
        """Return the model that the fields so far name; None: those that follow may name it."""
        if in_form and in_form != ANY_MODEL:
            return self._services.models.find(in_form)
        if self._queue is not None:
            return self._queue
        try:
            return self._services.models.find(None)
        except ModelNotNamed:
            if complete:
                raise
            return None

    async def _admit(self, queue: ModelQueue) -> None:
        """Let the request in to its model, which starts to load."""
        _refuse_large(self._request, queue.limits)
        if self._waits is not None:
            owner = self._principal.name if self._principal.authenticated else None
            self._place = self._waits.enter_context(queue.waiting_client(owner))
        facts = queue.model.facts()
        self._found = None if facts.state is State.LOADED else facts.depth
        synchronous = self._waits is not None
        admission = queue.admit(self._principal.name, idempotency_key=self._key, synchronous=synchronous)
        self._admission = await self._admitted.enter_async_context(admission)
        self._queue = queue

    def _job_of(self, form: Form) -> Job:
        assert self._queue is not None
        now = datetime.now(UTC)
        return Job(
            id=new_job_id(now, secrets.token_bytes),
            model=self._queue.key,
            options=self._reader.options_of(form.fields),
            filename=form.filename,
            audio=form.file,
            principal=self._principal.name,
            created_at=now,
            synchronous=self._waits is not None,
            idempotency_key=self._key,
            start_by=now + limit if (limit := self._reader.start_within_of(form.fields)) is not None else None,
        )


async def disconnected(request: Request) -> None:
    """Wait until the client hangs up; call it once the body has been read. No deadline: its caller cancels it."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


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


def _refuse_large(request: Request, limits: Limits) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.max_audio_bytes + _FORM_OVERHEAD_BYTES:
        raise AudioTooLarge(limit_bytes=limits.max_audio_bytes)


def _key_of(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise MalformedRequest(reason="there is more than one Idempotency-Key")
    if keys and not keys[0].strip(" \t"):
        raise MalformedRequest(reason="the Idempotency-Key is empty")
    if keys and len(keys[0]) > _MAX_KEY:
        raise MalformedRequest(reason=f"the Idempotency-Key is longer than {_MAX_KEY} bytes")
    return keys[0] if keys else None
