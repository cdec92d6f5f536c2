"""Plain ASGI middlewares around the routes, so that streams and disconnects pass unchanged."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisper_inference.api.dependencies import MODEL_IN_PATH
from whisper_inference.api.problem import error_response
from whisper_inference.errors import ShuttingDown
from whisper_inference.service.request_metrics import RequestMetrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestTimes:
    """Measures each request."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
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


_ROOTS = frozenset({"v1", "jobs", "model", "health", "metrics"})
"""The first segments of the routes' paths."""


class ModelInPath:
    """Serves every route also below /models/NAME and /models/NAMESPACE/NAME, which name the model."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with the prefix taken out of its path."""
        if scope["type"] == "http" and scope["path"].startswith("/models/"):
            segments = scope["path"].split("/")[2:]
            # A name comes first, so a route's first segment is looked for after it.
            at = next((at for at in (1, 2) if len(segments) > at and segments[at] in _ROOTS), None)
            if at is not None:
                path = "/" + "/".join(segments[at:])
                named = {MODEL_IN_PATH: "/".join(segments[:at])}
                scope = {**scope, "path": path, "raw_path": path.encode(), **named}
        await self._app(scope, receive, send)


class CutOff:
    """Answers the requests that the server's end cuts off.

    The HTTP server cancels what is left when its grace is over, and would answer with a 500 of its own.
    """

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
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
