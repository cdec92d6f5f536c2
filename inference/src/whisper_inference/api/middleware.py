"""Plain ASGI middlewares around the routes, so that streams and disconnects pass unchanged."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisper_inference.api.problem import error_response
from whisper_inference.errors import ShuttingDown
from whisper_inference.service.metrics import Metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestTimes:
    """Measures each request."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note its duration and status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - began
            # HTTP lets a client invent methods, and a label must not grow with them.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(route=route, method=method, code=status, seconds=seconds)


class CutOff:
    """Answers the requests that the server's end cuts off.

    The HTTP server cancels what is left when its grace is over, and would answer with a 500 of its own.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. An answer that has begun ends where it is."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            # Nothing else cancels requests: a client that hangs up is reported by `receive`.
            if not begun and scope["type"] == "http":
                answer = error_response(Request(scope), ShuttingDown(), metrics=self._metrics)
                answer.headers["Connection"] = "close"
                await answer(scope, receive, send)
