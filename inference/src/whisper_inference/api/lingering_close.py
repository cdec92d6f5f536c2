"""Lets a client that is refused in the middle of its upload read the answer.

Closing a connection with unread bytes resets it, and the reset may overtake the answer (RFC 9112, section 9.6). So
after an early answer the server reads and drops what still arrives, for a short time only.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_IDLE_SECONDS = 2.0
"""A client that has sent nothing for this long has stopped sending."""
_MOST_SECONDS = 10.0
_MOST_BYTES = 16 * 2**20
"""Bounds of what is read and dropped; a client on a busy machine may be slow to read the answer."""


class LingeringClose:
    """A plain ASGI middleware for early answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; before the end of its answer, drop what the client is still sending."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""

        async def noting() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def dropped() -> None:
            left = _MOST_BYTES
            while unread and left > 0:
                async with asyncio.timeout(_IDLE_SECONDS):
                    left -= len((await noting()).get("body", b""))

        async def lingering(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            if unread and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                # Cancelled when the server ends: the answer ends then too.
                with suppress(TimeoutError, asyncio.CancelledError):
                    async with asyncio.timeout(_MOST_SECONDS):
                        await dropped()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, noting, lingering)
