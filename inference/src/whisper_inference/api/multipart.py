"""Uploads: multipart/form-data whose file is streamed to the spool and never held in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from whisper_inference.errors import MalformedRequest
from whisper_inference.jobs.job import SpooledAudio, clean_filename
from whisper_inference.jobs.spool import SpoolWriter

Fields = Mapping[str, Sequence[str]]
"""The values of each field."""

SLICE_BYTES = 64 * 1024
"""Parsed at a time, whatever size arrives, so that hashing and parsing never block the event loop for long."""


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Limits of a form. The file has its own limit, in the spool."""

    field_bytes: int = 64 * 1024
    """Size of one field."""
    fields: int = 32
    """Number of fields."""
    header_bytes: int = 16 * 1024
    """Size of one part's headers."""
    headers: int = 8
    """Number of one part's headers."""
    idle_seconds: float = 60.0
    """How long to wait for the client's next bytes."""
    slowest_bytes_per_second: int = 1024
    """Slower uploads use up idle_seconds: an upload holds a waiting place and keeps the model loaded."""


@dataclass(frozen=True, slots=True)
class Form:
    """A complete form."""

    fields: dict[str, list[str]]
    """The values of each field."""
    file: SpooledAudio
    """Committed to the spool; the caller keeps or deletes it."""
    filename: str
    """As the client named it, cleaned."""
    content_type: str | None
    """As the client named it."""


@dataclass(slots=True)
class _Part:
    """One part of the body."""

    name: str = ""
    """The field's name."""
    filename: str | None = None
    """Of a file, cleaned."""
    content_type: str | None = None
    """As the client named it."""
    body: bytearray = field(default_factory=bytearray)
    """A field's bytes; the file's go to the spool."""
    headers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By name, in lower case."""


class _FormReader:
    """Handles the parser's callbacks; file bytes go to `received`, which the caller writes to the spool."""

    def __init__(self, *, fields: Collection[str], file_field: str, limits: FormLimits) -> None:
        self._allowed = fields
        self._file_field = file_field
        self._limits = limits
        self._part = _Part()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self.fields: dict[str, list[str]] = {}
        self.file: _Part | None = None
        self.received: list[bytes] = []
        self.ended = False

    def parser(self, boundary: bytes) -> MultipartParser:
        """Return a parser that calls this reader."""
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._add_data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
            max_header_count=self._limits.headers,
            max_header_size=self._limits.header_bytes,
        )

    def _begin(self) -> None:
        self._part = _Part()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._part.headers[self._header_name.decode("latin-1").lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _open(self) -> None:
        part, headers = self._part, self._part.headers
        disposition, options = parse_options_header(_latin(headers.get("content-disposition", b"")))
        if disposition != b"form-data" or b"name" not in options:
            raise MalformedRequest(reason="a part has no Content-Disposition: form-data with a name")
        encoding = _latin(headers.get("content-transfer-encoding", b"binary")).strip().lower()
        if encoding not in ("binary", "8bit", "7bit"):
            raise MalformedRequest(reason=f"the Content-Transfer-Encoding {_quoted(encoding)} is not supported")
        part.name = _text(options[b"name"], "a field's name")
        if b"filename" in options:
            part.filename = clean_filename(options[b"filename"].decode("utf-8", "replace"))
        part.content_type = _latin(headers["content-type"])[:255] if "content-type" in headers else None
        self._admit(part)

    def _admit(self, part: _Part) -> None:
        if part.name == self._file_field:
            self._admit_file(part)
        elif part.name not in self._allowed:
            known = ", ".join(sorted({*self._allowed, self._file_field}))
            raise MalformedRequest(reason=f"the field {_quoted(part.name)} is unknown; known are {known}")
        elif sum(map(len, self.fields.values())) >= self._limits.fields:
            raise MalformedRequest(reason=f"there are more than {self._limits.fields} fields")

    def _admit_file(self, part: _Part) -> None:
        if part.filename is None:
            hint = f"curl: -F {self._file_field}=@speech.flac"
            raise MalformedRequest(reason=f"the field '{self._file_field}' is not a file: send it as one ({hint})")
        if self.file is not None:
            raise MalformedRequest(reason=f"there is more than one '{self._file_field}'")
        self.file = part

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is self.file:
            self.received.append(data[start:end])
            return
        self._part.body += data[start:end]
        if len(self._part.body) > self._limits.field_bytes:
            limit = self._limits.field_bytes
            raise MalformedRequest(reason=f"the field '{self._part.name}' is longer than {limit} bytes")

    def _end(self) -> None:
        if self._part is not self.file:
            value = _text(bytes(self._part.body), f"the field '{self._part.name}'")
            self.fields.setdefault(self._part.name, []).append(value)

    def _finish(self) -> None:
        self.ended = True


async def receive_form(
    request_stream: AsyncIterator[bytes],
    content_type: str | None,
    *,
    fields: Collection[str],
    open_writer: Callable[[], AbstractAsyncContextManager[SpoolWriter]],
    file_field: str = "file",
    limits: FormLimits = FormLimits(),
    on_fields: Callable[[Fields, bool], Awaitable[None]] | None = None,
) -> Form:
    """Read a form of the named fields and one file, which goes through open_writer() as it arrives.

    on_fields: called when the file begins, with the fields before it, and when the form is complete; it may reject them
    by raising, before the file is kept. Whatever is raised, here or by the stream when the client disconnects, nothing
    of the file remains. Raises MalformedRequest, and what the writer raises (AudioTooLarge, TooManyStoredBytes,
    DiskFull) at once, leaving the rest unread.
    """
    reader = _FormReader(fields=fields, file_field=file_field, limits=limits)
    parser = reader.parser(boundary_of(content_type))
    async with AsyncExitStack() as opened:
        writer: SpoolWriter | None = None
        async for data in _slices(request_stream, limits):
            _parse(parser, data)
            if reader.file is not None and writer is None:
                if on_fields is not None:
                    await on_fields(reader.fields, False)
                writer = await opened.enter_async_context(open_writer())
            for chunk in reader.received:
                assert writer is not None
                await writer.write(chunk)
            reader.received.clear()
        file = _complete_file(reader, file_field)
        if on_fields is not None:
            await on_fields(reader.fields, True)
        assert writer is not None
        return Form(reader.fields, await writer.commit(), file.filename or "audio", file.content_type)


def _complete_file(reader: _FormReader, file_field: str) -> _Part:
    if not reader.ended:
        raise MalformedRequest(reason="the body ends before its closing boundary")
    if reader.file is None:
        raise MalformedRequest(reason=f"the field '{file_field}' is missing")
    return reader.file


def boundary_of(content_type: str | None) -> bytes:
    """Return the boundary of a form's parts. Raises MalformedRequest for any other Content-Type."""
    try:
        kind, options = parse_options_header(content_type)
    except ValueError:
        raise MalformedRequest(reason="the Content-Type cannot be read") from None
    if kind != b"multipart/form-data":
        raise MalformedRequest(reason="the Content-Type is not multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not re.fullmatch(rb"[ -~]{1,70}", boundary):  # RFC 2046, section 5.1.1: at most 70 characters.
        raise MalformedRequest(reason="the Content-Type names no usable boundary")
    return boundary


async def _slices(stream: AsyncIterator[bytes], limits: FormLimits) -> AsyncIterator[bytes]:
    clock, slowest = asyncio.get_running_loop().time, limits.slowest_bytes_per_second
    patience = limits.idle_seconds
    while True:
        asked_at = clock()
        try:
            async with asyncio.timeout(patience):
                data = await anext(stream, None)
        except TimeoutError:
            reason = f"no data arrived for {limits.idle_seconds:g} s, or less than {slowest} bytes/s"
            raise MalformedRequest(reason=reason) from None
        if data is None:
            return
        patience = min(limits.idle_seconds, patience - (clock() - asked_at) + len(data) / slowest)
        for part in _cut(data):
            yield part


def _cut(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), SLICE_BYTES):
        yield data[start : start + SLICE_BYTES]


def _parse(parser: MultipartParser, data: bytes) -> None:
    try:
        parser.write(data)
    except FormParserError as error:
        raise MalformedRequest(reason=f"it is not well-formed multipart/form-data ({error})") from error


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedRequest(reason=f"{what} is not UTF-8") from None


def _latin(value: bytes) -> str:
    return value.decode("latin-1")


def _quoted(name: str) -> str:
    """Return text of a client, short and printable, for a sentence."""
    return ascii(name[:64])
