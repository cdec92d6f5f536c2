"""What a gateway sends once it has a slot: one order, and the bytes of its audio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from whisper_inference.errors import MalformedRequest
from whisper_inference.execution import MAX_ORDER_BYTES, ExecutorLost, JobInput
from whisper_inference.worker.protocol import LENGTH_BYTES

_SILENT_SECONDS = 10.0
"""A caller that sends nothing for this long loses its slot: others wait for it, and it keeps the model loaded."""
_SLOWEST_BYTES_PER_SECOND = 65_536
"""For the same reason. Twice the rate of uncompressed speech, and a hundredth of the slowest network in a cluster."""

_decoder = msgspec.json.Decoder(JobInput)


class IncomingOrder:
    """Reads an order and its audio. receive: returns the next bytes, None at the end."""

    def __init__(
        self, receive: Callable[[], Awaitable[bytes | None]], *, silent_seconds: float = _SILENT_SECONDS
    ) -> None:
        self._receive = receive
        self._silent_seconds = self._patience = silent_seconds
        self._rest = b""

    async def head(self) -> JobInput:
        """Return the order. Raises MalformedRequest, ExecutorLost for a silent caller, and what receiving raises."""
        received = await self._at_least(LENGTH_BYTES, b"")
        length = int.from_bytes(received[:LENGTH_BYTES])
        if length > MAX_ORDER_BYTES:
            raise MalformedRequest(reason=f"the order is longer than {MAX_ORDER_BYTES} bytes")
        end = LENGTH_BYTES + length
        received = await self._at_least(end, received)
        self._rest = received[end:]
        try:
            return _decoder.decode(received[LENGTH_BYTES:end])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedRequest(reason=f"the order cannot be read ({error})") from None

    async def audio(self) -> AsyncGenerator[bytes]:
        """Yield the audio's bytes, after `head`. Raises ExecutorLost for a silent caller, and what receiving raises."""
        chunk: bytes | None = self._rest
        while chunk is not None:
            if chunk:
                yield chunk
            chunk = await self._next()

    async def _at_least(self, size: int, received: bytes) -> bytes:
        while len(received) < size:
            chunk = await self._next()
            if chunk is None:
                raise MalformedRequest(reason="the body ends before the end of the order")
            received += chunk
        return received

    async def _next(self) -> bytes | None:
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        try:
            async with asyncio.timeout(self._patience):
                chunk = await self._receive()
        except TimeoutError:
            limits = f"no data for {self._silent_seconds:g} s, or slower than {_SLOWEST_BYTES_PER_SECOND} bytes/s"
            # Not the job's fault: its gateway or the network is slow, and another attempt may succeed.
            raise ExecutorLost("upload", f"the gateway's upload stalled: {limits}") from None
        earned = len(chunk or b"") / _SLOWEST_BYTES_PER_SECOND
        self._patience = min(self._silent_seconds, self._patience - (clock() - asked_at) + earned)
        return chunk
