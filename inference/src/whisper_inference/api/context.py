"""What routes are given: the server's parts, and who calls."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from whisper_inference.auth import Principal, Scope
from whisper_inference.errors import MalformedRequest
from whisper_inference.jobs.job import Job
from whisper_inference.service.server import Server

_Documented = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="An API key; needed when WHISPER_API_KEYS_FILE is set.")),
]
"""For /openapi.json; the key ring reads the header itself."""


def server_of(request: Request) -> Server:
    """Return the parts that the application was made with."""
    return cast("Server", request.app.state.server)


ServerDep = Annotated[Server, Depends(server_of)]


def user(request: Request, server: ServerDep, _key: _Documented) -> Principal:
    """Return a caller who may transcribe. Raises Unauthenticated, ScopeMissing."""
    return server.keys.authorise(request.headers.get("authorization"), Scope.USE)


UserDep = Annotated[Principal, Depends(user)]


def controller(request: Request, server: ServerDep, _key: _Documented) -> Principal:
    """Return a caller who may load and unload. Raises Unauthenticated, ScopeMissing."""
    return server.keys.authorise(request.headers.get("authorization"), Scope.CONTROL)


ControllerDep = Annotated[Principal, Depends(controller)]


def scraper(request: Request, server: ServerDep) -> None:
    """Let in whoever may read the metrics. Raises Unauthenticated, ScopeMissing."""
    if server.settings.metrics_auth == "key":
        server.keys.authorise(request.headers.get("authorization"), Scope.USE)


async def visible_job(job_id: str, server: ServerDep, principal: UserDep) -> Job:
    """Return the job that the path names. Raises JobNotFound, also for a job that the caller may not see.

    Every route under a job's id takes its job from here, so that none can forget to check whose it is.
    """
    return await server.store.get(job_id, owner=principal.sees_jobs_of)


JobDep = Annotated[Job, Depends(visible_job)]


async def no_unknown_queries(request: Request) -> None:
    """Refuse a query parameter that the route does not know, or that came twice: none must be ignored."""
    dependant = request.scope["route"].dependant
    known = {field.alias for field in dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise MalformedRequest(reason=f"unknown query parameter '{unknown[0]}'; known here: {sorted(known) or 'none'}")
    names = [name for name, _ in request.query_params.multi_items()]
    if len(set(names)) < len(names):
        raise MalformedRequest(reason=f"the query parameter '{max(names, key=names.count)}' came more than once")
