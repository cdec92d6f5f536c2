"""The ASGI application over a running server."""

from __future__ import annotations

import time
from typing import cast

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whisper_inference.api.context import ServerDep, UserDep, no_unknown_queries, scraper
from whisper_inference.api.linger import Linger
from whisper_inference.api.problem import CutOff, install_error_handlers
from whisper_inference.api.routes import health, jobs, model, openai
from whisper_inference.service.metrics import Metrics
from whisper_inference.service.server import Server

_DESCRIPTION = "Transcribes speech with a Whisper model that is in memory only while it is needed."
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_exposition = APIRouter(tags=["metrics"], dependencies=[Depends(no_unknown_queries)])


@_exposition.get("/metrics", dependencies=[Depends(scraper)], responses={200: {"content": {"text/plain": {}}}})
async def metrics(server: ServerDep) -> Response:
    """Return the metrics in Prometheus' text format."""
    body = server.metrics.exposition(await server.picture())
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


@_exposition.get("/openapi.json", include_in_schema=False)
async def schema(request: Request, _principal: UserDep) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(cast("FastAPI", request.app).openapi())


@_exposition.get("/docs", include_in_schema=False)
async def pages(request: Request, _principal: UserDep) -> HTMLResponse:
    """Return a page that shows the OpenAPI document."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title=cast("FastAPI", request.app).title)


def make_app(server: Server) -> FastAPI:
    """Return the application; the server's life is its caller's."""
    app = FastAPI(
        title="whisper-inference",
        version=server.model.version,
        description=_DESCRIPTION,
        openapi_url=None,  # served below, where it asks for the key like every other route
    )
    app.state.server = server
    for router in (health.router, model.router, jobs.router, openai.router, _exposition):
        app.include_router(router)
    install_error_handlers(app, server.metrics)
    app.add_middleware(Linger)
    app.add_middleware(CutOff, metrics=server.metrics)
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
            # HTTP lets a client invent methods, and a label must not grow with them.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(route=route, method=method, code=status, seconds=seconds)
