"""Maps every error to HTTP, and is the only place that does: RFC 9457 problems, and OpenAI's shape below /v1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from whisper_inference.errors import (
    DatabaseUnavailable,
    MalformedRequest,
    ServiceError,
    Unauthenticated,
    WaitedTooLong,
)
from whisper_inference.messages import language_of, title_of
from whisper_inference.service.request_metrics import RequestMetrics

log = structlog.stdlib.get_logger(__name__)

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def install_error_handlers(app: FastAPI, metrics: RequestMetrics) -> None:
    """Answer every exception of the app's routes with a problem."""

    async def on_service_error(request: Request, error: Exception) -> JSONResponse:
        return error_response(request, cast("ServiceError", error), metrics=metrics)

    async def on_invalid_request(request: Request, error: Exception) -> JSONResponse:
        reason = _reason(cast("RequestValidationError", error))
        return error_response(request, MalformedRequest(reason=reason), metrics=metrics)

    async def on_http_error(request: Request, error: Exception) -> JSONResponse:
        refused = cast("HTTPException", error)
        return _plain(request, refused.status_code, headers=refused.headers)

    async def on_hang_up(request: Request, _error: Exception) -> JSONResponse:
        # Nobody receives this answer; it only keeps the log and the metrics free of a server error.
        return error_response(request, MalformedRequest(reason="the client disconnected mid-request"), metrics=metrics)

    async def on_database_error(request: Request, error: Exception) -> JSONResponse:
        reason = str(cast("OperationalError", error).orig)
        log.error("http.database_error", path=request.url.path, reason=reason)
        return error_response(request, DatabaseUnavailable(reason=reason), metrics=metrics)

    async def on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
        log.error("http.internal_error", path=request.url.path, exc_info=error)
        answer = error_response(request, ServiceError(), metrics=metrics)
        # The HTTP server gets the exception too and drops the connection: the client must not reuse it.
        answer.headers["Connection"] = "close"
        return answer

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, on_hang_up)
    app.add_exception_handler(OperationalError, on_database_error)
    app.add_exception_handler(Exception, on_unexpected_error)


def problem_of(error: ServiceError, accept_language: str | None) -> dict[str, object]:
    """Return the members of a problem document: type, title, status, detail, and the error's own parameters."""
    return {
        "type": f"urn:whisper-operator:problem:{error.code}",
        "title": title_of(error.code),
        "status": error.status,
        "detail": error.detail(language_of(accept_language)),
        "code": error.code,
        **{name: value for name, value in error.params.items() if name not in ("type", "title", "status", "detail")},
    }


def error_response(request: Request, error: ServiceError, *, metrics: RequestMetrics) -> JSONResponse:
    """Return an error as a problem document, or below /v1 in OpenAI's shape, and count it."""
    metrics.rejected(error.code)
    accept_language = request.headers.get("accept-language")
    if request.url.path.startswith("/v1/"):
        return JSONResponse(openai_error_of(error, accept_language), error.status, _headers(error))
    problem = problem_of(error, accept_language)
    return JSONResponse(problem, error.status, _headers(error), media_type="application/problem+json")


def _plain(request: Request, status: int, *, headers: Mapping[str, str] | None) -> JSONResponse:
    """Answer with an error of the framework's own, such as an unknown path or a wrong method."""
    phrase = HTTPStatus(status).phrase
    if request.url.path.startswith("/v1/"):
        code = HTTPStatus(status).name.lower()
        return JSONResponse(_openai_error(status, f"{phrase}.", code=code), status, headers)
    problem = {"type": "about:blank", "title": phrase, "status": status, "detail": f"{phrase}."}
    return JSONResponse(problem, status, headers, media_type="application/problem+json")


def openai_error_of(error: ServiceError, accept_language: str | None) -> dict[str, object]:
    """Return an error in OpenAI's shape."""
    return _openai_error(error.status, error.detail(language_of(accept_language)), code=error.code)


def _openai_error(status: int, message: str, *, code: str) -> dict[str, object]:
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _headers(error: ServiceError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after is not None or error.status in {429, 503}:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, WaitedTooLong):
        headers["Location"] = f"/jobs/{error.params['job']}"
    return headers


def _reason(error: RequestValidationError) -> str:
    problems = cast("Sequence[dict[str, object]]", error.errors())
    return "; ".join(
        f"{'.'.join(str(part) for part in cast('Sequence[object]', problem['loc']))}: {problem['msg']}"
        for problem in problems
    )
