"""Health: live, ready, started. None of them loads a model or counts as activity."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from whisper_inference.api.dependencies import ServicesDep
from whisper_inference.service.probes import ProbeFinding

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The server as a whole."""

    status: str
    version: str
    loaded: bool


class Probe(BaseModel):
    """One answer to a probe; detail: what it waits for, or why the model could not be loaded at start."""

    status: str
    detail: str | None = None


@router.get("/health")
async def health(services: ServicesDep) -> Health:
    """Return the version, and whether a model is in memory."""
    return Health(status="ok", version=services.version, loaded=services.probes.loaded())


@router.get("/health/live")
async def live() -> Probe:
    """Answer as long as the event loop runs, whatever the model does."""
    return Probe(status="ok")


@router.get("/health/ready", responses={503: {"model": Probe}})
async def ready(services: ServicesDep, response: Response) -> Probe:
    """Return whether work is accepted; an unloaded model is ready, since work loads it."""
    return _probe(services.probes.ready(), response)


@router.get("/health/startup", responses={503: {"model": Probe}})
async def startup(services: ServicesDep, response: Response) -> Probe:
    """Return whether the start has ended; a first load that failed is in the body, not in a status that restarts it."""
    return _probe(services.probes.started(), response)


def _probe(finding: ProbeFinding, response: Response) -> Probe:
    if not finding.passed:
        response.status_code = 503
    return Probe(status=finding.status, detail=finding.detail)
