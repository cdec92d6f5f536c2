"""A slot of a pod's server, as an executor's slot: one connection holds it from beginning to end (POST /execute)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter

from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_cluster.pod_http import AiohttpTransport, start_of
from whisper_cluster.pods import Address, Reply, refusal
from whisper_inference.errors import ShuttingDown
from whisper_inference.execution import (
    EXECUTE_MEDIA_TYPE,
    ExecuteMessage,
    ExecutorLost,
    Finished,
    Granted,
    Heartbeat,
    JobInput,
    Lost,
    Refused,
    Run,
    RunEvent,
    Stopped,
)
from whisper_inference.jobs.spool import Spool
from whisper_inference.worker.protocol import MAX_FRAME_BYTES, frame

SILENT_SECONDS = 5.0
"""A pod that sends nothing for this long is gone: it sends a heartbeat every second, whatever its model does."""
_CANCEL_SECONDS = 3.0
"""For the request that cancels a job; whoever cancels kills the slot if the job does not stop."""
_MOST_PROBLEM_BYTES = 65_536


@asynccontextmanager
async def pod_slot(http: AiohttpTransport, address: Address, *, spool: Spool) -> AsyncGenerator[PodSlot]:
    """Lend a slot of a pod, with its model loaded; waits until there is one. spool: has the audio of the jobs.

    Raises PodUnreachable and PodRefused when another pod may do better, ServiceError when the model cannot be loaded,
    and ExecutorLost when the worker ended before it was lent.
    """
    body = _Body()
    response = await _opened(http, address, body=body)
    hang_up = partial(_hang_up, response)
    try:
        messages = _Messages(response.content)
        granted = await _granted(messages, address)
        yield PodSlot(http, address, granted=granted, body=body, messages=messages, spool=spool, hang_up=hang_up)
    finally:
        hang_up()


async def _opened(http: AiohttpTransport, address: Address, *, body: _Body) -> aiohttp.ClientResponse:
    """Return the response, whose head comes at once. Raises PodUnreachable, PodRefused."""
    url = f"{address.url}/execute"
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            response = await http.exchange(url, headers=address.headers, body=body)
    except OSError as error:
        raise _unreachable(address, error) from error
    if response.status == 200:
        return response
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            problem = await start_of(response.content, _MOST_PROBLEM_BYTES)
    except (OSError, aiohttp.ClientError) as error:
        raise _unreachable(address, error) from error
    finally:
        response.close()
    raise refusal(Reply(response.status, problem))


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """Close the connection now: a close that first sends what is buffered would wait for a pod that does not read."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _granted(messages: _Messages, address: Address) -> Granted:
    try:
        # No deadline for the whole: the pod may be downloading its model. It says that it is alive meanwhile.
        message = await messages.next()
    except OSError as error:
        raise _unreachable(address, error) from error
    match message:
        case Granted():
            return message
        case Refused(code=ShuttingDown.code):
            raise PodRefused(str(message.error()), code=message.code, status=ShuttingDown.status)
        case Refused():
            raise message.error()
        case Lost():
            raise ExecutorLost(message.cause, message.detail)
        case _:
            raise PodUnreachable(f"POST {address.url}/execute: {type(message).__name__} came before the slot")


def _unreachable(address: Address, error: Exception) -> PodUnreachable:
    return PodUnreachable(f"POST {address.url}/execute: {_reason(error)}")


def _reason(error: Exception) -> str:
    # asyncio's TimeoutError has no text.
    return str(error) or f"no response for {SILENT_SECONDS:g} s"


class PodSlot:
    """The pod's slot, lent to one job: an execution.Slot. granted: the pod's message, with the load waited for."""

    def __init__(
        self,
        http: AiohttpTransport,
        address: Address,
        *,
        granted: Granted,
        body: _Body,
        messages: _Messages,
        spool: Spool,
        hang_up: Callable[[], None],
    ) -> None:
        self.granted = granted
        self._http = http
        self._address = address
        self._body = body
        self._messages = messages
        self._spool = spool
        self._hang_up = hang_up
        self._killed: ExecutorLost | None = None
        self._unreadable: Exception | None = None

    async def run(self, order: Run) -> AsyncGenerator[RunEvent]:
        """Send a job and yield what happens to it, as Slot.run does; a pod that is gone raises ExecutorLost."""
        ended = False
        self._body.begin(order, audio=self._audio(order.audio))
        try:
            while not ended:
                event = _event_of(await self._next())
                ended = isinstance(event, Finished | Stopped)
                yield event
        finally:
            if not ended:
                # The pod cancels the job of a caller that is gone.
                self._hang_up()

    async def cancel(self, job: str) -> None:
        """Request that the job stops; `run` then yields Stopped."""
        url = f"{self._address.url}/execute/{job}"
        # A pod that cannot be reached is lost, which `run` reports.
        with suppress(OSError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self._http.fetch("DELETE", url, query={}, headers=self._address.headers, most_bytes=0)

    def kill(self, cause: str, detail: str) -> None:
        """Hang up: the pod cancels the job, and `run` raises ExecutorLost with this cause."""
        if self._killed is None:
            self._killed = ExecutorLost(cause, detail)
        self._hang_up()

    async def _audio(self, key: str) -> AsyncGenerator[bytes | memoryview]:
        try:
            async with aclosing(self._spool.read(key)) as parts:
                async for part in parts:
                    yield part
        except Exception as error:
            self._unreadable = error
            # The pod would wait for the rest; and `run` now reports the error.
            self._hang_up()
            raise

    async def _next(self) -> ExecuteMessage:
        """Return the pod's next message. Raises ExecutorLost, and what reading the audio raised."""
        try:
            return await self._messages.next()
        except OSError as error:
            if self._killed is not None:
                raise self._killed from None
            if self._unreadable is not None:
                raise self._unreadable from None
            raise ExecutorLost("unreachable", f"{self._address.url}: {_reason(error)}") from error


def _event_of(message: ExecuteMessage) -> RunEvent:
    """Return what a slot yields. Raises ServiceError and ExecutorLost for the messages that mean them."""
    match message:
        case Refused():
            raise message.error()
        case Lost():
            raise ExecutorLost(message.cause, message.detail)
        case Granted() | Heartbeat():
            raise ExecutorLost("unreachable", f"the pod sent {type(message).__name__} during a job")
        case _:
            return message


class _Messages:
    """The lines of a pod's response."""

    _decoder = msgspec.json.Decoder(ExecuteMessage)

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._buffer = bytearray()
        self._searched = 0

    async def next(self) -> ExecuteMessage:
        """Return the next message that is not a heartbeat. Raises OSError when there is none."""
        while True:
            while (end := self._buffer.find(b"\n", self._searched)) < 0:
                await self._fill()
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if not isinstance(message := self._message_of(line), Heartbeat):
                return message

    async def _fill(self) -> None:
        self._searched = len(self._buffer)
        if self._searched > MAX_FRAME_BYTES:
            raise ConnectionError(f"a message is longer than {MAX_FRAME_BYTES} bytes")
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                data = await self._content.readany()
        except (aiohttp.ClientError, RuntimeError) as error:
            # A closed connection is a RuntimeError to aiohttp's StreamReader.
            raise ConnectionError(str(error)) from error
        if not data:
            raise ConnectionError("the pod closed the connection")
        self._buffer += data

    def _message_of(self, line: bytes) -> ExecuteMessage:
        try:
            return self._decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ConnectionError(f"invalid message: {error}") from error


class _Body(aiohttp.Payload):
    """The request's body: nothing until there is an order, then the order and its audio.

    A payload of our own, not an async iterable: aiohttp would keep the request's head back until the first part.
    """

    def __init__(self) -> None:
        super().__init__(None, content_type=EXECUTE_MEDIA_TYPE)
        self._order: asyncio.Future[tuple[bytes, AsyncGenerator[bytes | memoryview]]] = (
            asyncio.get_running_loop().create_future()
        )

    def begin(self, order: Run, *, audio: AsyncGenerator[bytes | memoryview]) -> None:
        """Send an order and its audio."""
        job = JobInput(
            job=order.job, options=order.options, resume=order.resume, max_audio_seconds=order.max_audio_seconds
        )
        self._order.set_result((frame(job), audio))

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body; aiohttp calls this, and cancels it when the response is closed."""
        writer.send_headers()
        # No deadline: who reads the response has one.
        head, audio = await self._order
        await writer.write(head)
        async with aclosing(audio) as parts:
            async for part in parts:
                await writer.write(part)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        """Refuse: the body is not text."""
        raise TypeError("an order is not text")
