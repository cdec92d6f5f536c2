"""Health: live, ready, started. None of them loads a model or counts as activity."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from whisper_inference.api.dependencies import JobsDep, ModelDep, ServicesDep
from whispermodel.states import State

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
    """Return the version, and whether the model is in memory."""
    return Health(status="ok", version=services.version, loaded=services.model.facts().state is State.LOADED)


@router.get("/health/live")
async def live() -> Probe:
    """Answer as long as the event loop runs, whatever the model does."""
    return Probe(status="ok")


@router.get("/health/ready", responses={503: {"model": Probe}})
async def ready(model: ModelDep, jobs: JobsDep, response: Response) -> Probe:
    """Return whether work is accepted; an unloaded model is ready, since work loads it."""
    if not jobs.accepting:
        response.status_code = 503
        return Probe(status="stopping", detail="The server is shutting down.")
    if refusal := model.refusal():
        response.status_code = 503
        return Probe(status="refusing", detail=str(refusal))
    return Probe(status="ok")


@router.get("/health/startup", responses={503: {"model": Probe}})
async def startup(model: ModelDep, response: Response) -> Probe:
    """Return whether the first load has ended; its failure is in the body, not in a status that restarts the pod."""
    facts = model.facts()
    if not facts.started:
        response.status_code = 503
        return Probe(status="starting", detail="The model is being loaded.")
    return Probe(status="ok", detail=str(facts.failure) if facts.failure else None)
