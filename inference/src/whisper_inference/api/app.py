"""The ASGI application over a running server."""

from __future__ import annotations

import time

from fastapi import APIRouter, Depends, FastAPI, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisper_inference.api import health, jobs, model, openai
from whisper_inference.api.context import ServerDep, no_unknown_queries, scraper
from whisper_inference.api.linger import Linger
from whisper_inference.api.problem import install_error_handlers
from whisper_inference.metrics import Metrics
from whisper_inference.server import Server

_DESCRIPTION = "Transcribes speech with a Whisper model that is in memory only while it is needed."
_exposition = APIRouter(tags=["metrics"], dependencies=[Depends(no_unknown_queries)])


@_exposition.get("/metrics", dependencies=[Depends(scraper)], responses={200: {"content": {"text/plain": {}}}})
async def metrics(server: ServerDep) -> Response:
    """Return the metrics in Prometheus' text format."""
    body = server.metrics.exposition(await server.picture())
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def make_app(server: Server) -> FastAPI:
    """Return the application; the server's life is its caller's."""
    app = FastAPI(title="whisper-inference", version=server.model.version, description=_DESCRIPTION)
    app.state.server = server
    for router in (health.router, model.router, jobs.router, openai.router, _exposition):
        app.include_router(router)
    install_error_handlers(app, server.metrics)
    app.add_middleware(Linger)
    app.add_middleware(RequestTimes, metrics=server.metrics)
    return app


class RequestTimes:
    """Measures each request; a plain ASGI middleware, so that streams and disconnects pass unchanged."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note its length and status."""
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
            self._metrics.request(route=route, method=scope["method"], code=status, seconds=seconds)
