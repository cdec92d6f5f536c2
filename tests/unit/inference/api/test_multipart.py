"""Uploads through the streaming parser into a real spool: complete forms are parsed, all else leaves nothing behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from testing.jobs import open_spool
from whisper_inference.api.multipart import Form, FormLimits, receive_form
from whisper_inference.errors import AudioTooLarge, MalformedRequest
from whisper_inference.jobs.job import MAX_FILENAME
from whisper_inference.jobs.spool import Spool, SpoolWriter

TYPE = "multipart/form-data; boundary=b"
FIELDS = ("language_in", "task")
AUDIO = bytes(range(256)) * 1000


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    async with open_spool(tmp_path) as spool:
        yield spool


def part(disposition: str, content: bytes = b"x", *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--b\r\n" + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content + b"\r\n"


FILE = part('name="file"; filename="a.flac"', AUDIO, "Content-Type: audio/flac")
END = b"--b--\r\n"


async def streamed(chunks: Iterable[bytes | Exception]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk


def opening(spool: Spool, limit: int = 1 << 20) -> Callable[[], AbstractAsyncContextManager[SpoolWriter]]:
    return lambda: spool.writer(limit)


async def received(
    spool: Spool, *chunks: bytes | Exception, content_type: str | None = TYPE, limit: int = 1 << 20
) -> Form:
    return await receive_form(streamed(chunks), content_type, fields=FIELDS, open_writer=opening(spool, limit))


async def nothing_stays(spool: Spool, folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.is_file()] and await spool.quota.stored_bytes() == 0  # noqa: ASYNC240


def content(spool: Spool, form: Form) -> bytes:
    path = spool.local_path(form.file.key)
    assert path is not None
    return path.read_bytes()


async def test_forms_of_common_clients_are_parsed(spool: Spool) -> None:
    request = httpx.Request(
        "POST",
        "http://server/jobs",
        data={"language_in": "pt", "task": ["translate", "transcribe"]},
        files={"file": ("ação.flac", AUDIO, "audio/flac")},
    )
    form = await received(spool, request.read(), content_type=request.headers["content-type"])
    assert form.fields == {"language_in": ["pt"], "task": ["translate", "transcribe"]}
    assert (form.filename, form.content_type) == ("ação.flac", "audio/flac")
    assert content(spool, form) == AUDIO


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(0, 700), max_size=30), body=st.binary(max_size=500))
async def test_chunking_does_not_change_the_form(spool: Spool, cuts: list[int], body: bytes) -> None:
    whole = part('name="task"', "olá".encode()) + part('name="file"; filename="a"', body) + END
    edges = [0, *sorted(cuts), len(whole)]
    form = await received(spool, *(whole[start:end] for start, end in itertools.pairwise(edges)))
    assert form.fields == {"task": ["olá"]}
    assert content(spool, form) == body
    await spool.delete(form.file)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(END, "'file' is missing", id="an empty form"),
        pytest.param(part('name="task"') + END, "'file' is missing", id="no file"),
        pytest.param(FILE + FILE + END, "more than one 'file'", id="two files"),
        pytest.param(part('name="file"', b"text") + END, "not a file", id="a file field that is text"),
        pytest.param(
            FILE + part('name="langauge"') + END, "'langauge' is unknown; known are file, language_in", id="typo"
        ),
        pytest.param(FILE, "closing boundary", id="cut after the file"),
        pytest.param(FILE[:5000], "closing boundary", id="cut in the file"),
        pytest.param(b"", "closing boundary", id="no body"),
        pytest.param(b"{}", "well-formed", id="json"),
        pytest.param(FILE + part('name="task"', b"\xff\xfe") + END, "'task' is not UTF-8", id="not utf-8"),
        pytest.param(FILE + part('name="task"', b"x" * 70_000) + END, "longer than 65536", id="a long field"),
        pytest.param(part('name="task"') * 40 + FILE + END, "more than 32 fields", id="many fields"),
        pytest.param(part("x=y") + END, "with a name", id="no name"),
        pytest.param(part('name="file"; filename="' + "a" * 20_000 + '"') + END, "well-formed", id="a header too long"),
        pytest.param(
            part('name="task"', b"x", *[f"A{n}: b" for n in range(99)]) + END, "well-formed", id="many headers"
        ),
        pytest.param(
            FILE + part('name="task"', b"x", "Content-Transfer-Encoding: base64") + END, "base64", id="base64"
        ),
    ],
)
async def test_malformed_form_is_rejected_and_leaves_nothing(
    spool: Spool, tmp_path: Path, body: bytes, reason: str
) -> None:
    with pytest.raises(MalformedRequest) as refused:
        await received(spool, body)
    assert reason in str(refused.value)
    assert await nothing_stays(spool, tmp_path)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=é",
        "multipart/form-data; boundary=\u20ac",
        "multipart/form-data; boundary=" + "b" * 300,
    ],
)
async def test_content_type_without_boundary_is_rejected(spool: Spool, content_type: str | None) -> None:
    with pytest.raises(MalformedRequest, match="Content-Type"):
        await received(spool, FILE + END, content_type=content_type)


async def test_oversized_file_is_rejected_early(spool: Spool, tmp_path: Path) -> None:
    reads = itertools.count()
    body = streamed(itertools.chain([part('name="file"; filename="a"')[:-2]], (b"x" * 65_536 for _ in reads)))
    with pytest.raises(AudioTooLarge):
        await receive_form(body, TYPE, fields=FIELDS, open_writer=opening(spool, 1 << 20))
    assert next(reads) <= 20
    assert await nothing_stays(spool, tmp_path)


async def test_disconnected_client_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(ClientDisconnect):
        await received(spool, FILE[:100_000], ClientDisconnect())
    assert await nothing_stays(spool, tmp_path)


async def test_silent_client_times_out(spool: Spool, tmp_path: Path) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield FILE[:100_000]
        await asyncio.Event().wait()

    with pytest.raises(MalformedRequest, match="no data arrived"):
        await receive_form(
            stalled(), TYPE, fields=FIELDS, open_writer=opening(spool), limits=FormLimits(idle_seconds=0.05)
        )
    assert await nothing_stays(spool, tmp_path)


async def test_trickling_client_times_out(spool: Spool, tmp_path: Path) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        yield FILE[:100_000]
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    limits = FormLimits(idle_seconds=0.1, slowest_bytes_per_second=1000)
    with pytest.raises(MalformedRequest, match="less than 1000 bytes/s"):
        async with asyncio.timeout(10):
            await receive_form(dripping(), TYPE, fields=FIELDS, open_writer=opening(spool), limits=limits)
    assert await nothing_stays(spool, tmp_path)


async def test_slow_client_at_the_minimum_rate_succeeds(spool: Spool) -> None:
    async def steady() -> AsyncIterator[bytes]:
        body = FILE + END
        for start in range(0, len(body), 8192):
            await asyncio.sleep(0.01)
            yield body[start : start + 8192]

    limits = FormLimits(idle_seconds=0.1, slowest_bytes_per_second=100_000)
    form = await receive_form(steady(), TYPE, fields=FIELDS, open_writer=opening(spool), limits=limits)
    assert form.file.size == len(AUDIO)


async def test_rejected_fields_leave_nothing(spool: Spool, tmp_path: Path) -> None:
    async def refuse(_fields: object, _complete: bool) -> None:
        raise MalformedRequest(reason="the language is unknown")

    with pytest.raises(MalformedRequest, match="language is unknown"):
        await receive_form(streamed([FILE, END]), TYPE, fields=FIELDS, open_writer=opening(spool), on_fields=refuse)
    assert await nothing_stays(spool, tmp_path)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\music\\a.mp3", "a.mp3"),
        ("a\tb.wav", "ab.wav"),
        ("..", "audio"),
        ("", "audio"),
        ("x" * 10_000 + ".mp3", None),
    ],
)
async def test_filename_is_sanitised(spool: Spool, sent: str, kept: str | None) -> None:
    form = await received(spool, part(f'name="file"; filename="{sent}"', AUDIO) + END)
    assert len(form.filename) <= MAX_FILENAME
    if kept is not None:
        assert form.filename == kept
    assert content(spool, form) == AUDIO
