"""Lets a client that is refused in the middle of its upload hear why.

Closing a connection with unread bytes resets it, and the reset may overtake the answer (RFC 9112, section 9.6). So
after an early answer some of what is still coming is read and dropped, for a moment only: the upload stays cut off.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LINGER_SECONDS = 1.0


class Linger:
    """A plain ASGI middleware."""

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

        async def lingering(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            if unread and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER_SECONDS):
                        while unread:
                            await noting()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, noting, lingering)
