"""A client that is refused in the middle of its upload, over a real connection to a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from whisper_inference.api.lingering_close import LingeringClose

CHUNK = b"x" * 65_536
REFUSAL = b"too large"


class Refuse:
    """Answers 413 after the first piece of the body; counts what the connection delivered."""

    def __init__(self) -> None:
        self.received = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting() -> Message:
            message = await receive()
            self.received += len(message.get("body", b""))
            return message

        await LingeringClose(self.answer)(scope, counting, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/whole":
            while (await receive()).get("more_body"):
                pass
        elif scope["path"] == "/refuse":
            await receive()
        headers = [(b"content-length", str(len(REFUSAL)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": REFUSAL})


@pytest.fixture
async def app() -> Refuse:
    return Refuse()


@pytest.fixture
async def port(app: Refuse) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await asyncio.wait_for(serving, 20)


async def request(port: int, path: str, headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode())
    return reader, writer


async def upload(writer: asyncio.StreamWriter, *, limit: int) -> int:
    """Send until the limit or until the connection is closed; return the bytes that were taken."""
    sent = 0
    try:
        while sent < limit:
            writer.write(CHUNK)
            await writer.drain()
            sent += len(CHUNK)
    except ConnectionError:
        pass
    return sent


async def test_a_client_refused_during_its_upload_gets_the_response_before_the_connection_closes(port: int) -> None:
    limit = 1 << 40
    reader, writer = await request(port, "/refuse", f"Content-Length: {limit}")
    began = time.monotonic()
    sending = asyncio.create_task(upload(writer, limit=limit))
    answer = await asyncio.wait_for(reader.readuntil(REFUSAL), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert time.monotonic() - began < 0.9, "the answer waits for nothing"
    await asyncio.wait_for(sending, 10)
    assert time.monotonic() - began < 5, "the upload is cut off"
    writer.close()


async def test_a_client_that_ends_its_upload_after_the_refusal_gets_the_whole_response(port: int, app: Refuse) -> None:
    size = 64 * len(CHUNK)
    reader, writer = await request(port, "/refuse", f"Content-Length: {size}")
    assert await upload(writer, limit=size) == size
    # Only now does this client read: what it left unread must not have been reset away.
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(REFUSAL)
    assert app.received == size
    writer.close()


@pytest.mark.parametrize(("path", "headers"), [("/whole", "Content-Length: 5"), ("/refuse", "Content-Length: 0")])
async def test_a_connection_whose_request_was_read_stays_open(port: int, path: str, headers: str) -> None:
    reader, writer = await request(port, path, headers)
    if "5" in headers:
        writer.write(b"hello")
    first = await asyncio.wait_for(reader.readuntil(REFUSAL), 5)
    assert b"connection: close" not in first.lower()
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + (b"hello" if "5" in headers else b"")
    )
    assert REFUSAL in await asyncio.wait_for(reader.readuntil(REFUSAL), 5)
    writer.close()


async def test_a_client_that_stops_sending_is_not_waited_for_long(port: int) -> None:
    reader, writer = await request(port, "/early", "Content-Length: 1000000")
    began = time.monotonic()
    assert (await asyncio.wait_for(reader.read(), 10)).endswith(REFUSAL)
    assert time.monotonic() - began < 3
    writer.close()
