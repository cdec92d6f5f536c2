"""FastAPI dependencies of the routes: the services of the application, and the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from whisper_inference.api.auth import KeyRing, Principal, Scope
from whisper_inference.errors import MalformedRequest, ServiceError
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.model_queue import ModelQueue
from whisper_inference.jobs.models import Models
from whisper_inference.jobs.service import JobService
from whisper_inference.service.executions import Executions
from whisper_inference.service.probes import Probes
from whisper_inference.service.request_metrics import RequestMetrics

_Documented = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="An API key; needed when WHISPER_API_KEYS_FILE is set.")),
]
"""For /openapi.json; the key ring reads the header itself."""


MODEL_IN_PATH = "whisper.model"
"""The key in an ASGI scope for the model that the path named; the prefix is no longer in the path."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with. Who makes the application decides what is behind it."""

    version: str
    """Of this package."""
    models: Models
    """The served models."""
    jobs: JobService
    """Their jobs."""
    executions: Executions | None
    """The jobs that are run for gateways; None: a gateway has none."""
    probes: Probes
    """What the health routes report."""
    keys: KeyRing
    """Who may do what."""
    metrics: RequestMetrics
    """Where requests are counted."""
    exposition: Callable[[], Awaitable[bytes]]
    """Returns all metrics in Prometheus' text format."""
    metrics_auth: Literal["none", "key"] = "none"
    """Whether reading the metrics needs a key (WHISPER_METRICS_AUTH)."""
    background: BackgroundTasks = field(
        # The lifecycle logs failed loads and unloads itself.
        default_factory=lambda: BackgroundTasks("http.background_task_failed", expected=ServiceError)
    )
    """Commands that continue when nobody waits for their answer."""


# Dependencies are coroutine functions although they await nothing: FastAPI runs the others in a thread each.


async def services_of(request: Request) -> Services:
    """Return the services that the application was made with."""
    return cast("Services", request.app.state.services)


ServicesDep = Annotated[Services, Depends(services_of)]


def requested_model(request: Request) -> str | None:
    """Return the model that a request names in its path or its header; None: neither. Raises MalformedRequest."""
    in_path = cast("str | None", request.scope.get(MODEL_IN_PATH))
    in_header = request.headers.getlist("x-whisper-model")
    if len(in_header) > 1:
        raise repeated("the header X-Whisper-Model")
    named = {name for name in (in_path, *in_header) if name}
    if len(named) > 1:
        raise MalformedRequest(reason="its path and its header X-Whisper-Model name two models")
    return named.pop() if named else None


async def queue_of(request: Request, services: ServicesDep) -> ModelQueue:
    """Return the model that a request without a form is about. Raises ModelNotFound, ModelNotNamed."""
    return services.models.find(requested_model(request))


QueueDep = Annotated[ModelQueue, Depends(queue_of)]


async def jobs_of(services: ServicesDep) -> JobService:
    """Return the stored jobs."""
    return services.jobs


JobsDep = Annotated[JobService, Depends(jobs_of)]


async def user(request: Request, services: ServicesDep, _key: _Documented) -> Principal:
    """Return a caller who may transcribe. Raises Unauthenticated, ScopeMissing."""
    return services.keys.authorise(request.headers.get("authorization"), Scope.USE)


UserDep = Annotated[Principal, Depends(user)]


async def control_user(request: Request, services: ServicesDep, _key: _Documented) -> Principal:
    """Return a caller who may load and unload. Raises Unauthenticated, ScopeMissing."""
    return services.keys.authorise(request.headers.get("authorization"), Scope.CONTROL)


ControlUserDep = Annotated[Principal, Depends(control_user)]


async def operator_user(request: Request, services: ServicesDep, _key: _Documented) -> Principal:
    """Return a caller that is part of this installation. Raises Unauthenticated, ScopeMissing."""
    return services.keys.authorise(request.headers.get("authorization"), Scope.OPERATOR)


OperatorDep = Annotated[Principal, Depends(operator_user)]


async def scraper(request: Request, services: ServicesDep) -> None:
    """Let in whoever may read the metrics. Raises Unauthenticated, ScopeMissing."""
    if services.metrics_auth == "key":
        services.keys.authorise(request.headers.get("authorization"), Scope.USE)


async def no_unknown_queries(request: Request) -> None:
    """Reject a query parameter that the route does not know or that came twice: none must be ignored."""
    dependant = request.scope["route"].dependant
    known = {field.alias for field in dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise MalformedRequest(
            reason=f"unknown query parameter '{unknown[0]}'; known here: {', '.join(sorted(known)) or 'none'}"
        )
    names = [name for name, _ in request.query_params.multi_items()]
    if len(set(names)) < len(names):
        raise repeated(f"the query parameter '{max(names, key=names.count)}'")


def repeated(what: str) -> MalformedRequest:
    """Return the error about something that a request may hold once."""
    return MalformedRequest(reason=f"{what} was given more than once")
