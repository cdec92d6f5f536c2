"""The ASGI application over the services of a model."""

from __future__ import annotations

from fastapi import FastAPI

from whisper_inference.api.dependencies import Services
from whisper_inference.api.lingering_close import LingeringClose
from whisper_inference.api.middleware import CutOff, ModelInPath, RequestTimes
from whisper_inference.api.problem import install_error_handlers
from whisper_inference.api.routes import execute, health, jobs, metrics, model, openai

_DESCRIPTION = "Transcribes speech with a Whisper model that is in memory only while it is needed."


def make_app(services: Services) -> FastAPI:
    """Return the application; the life of the services is its caller's."""
    app = FastAPI(
        title="whisper-inference",
        version=services.version,
        description=_DESCRIPTION,
        openapi_url=None,  # served by routes/metrics.py, where it asks for the key like every other route
    )
    app.state.services = services
    for routes in (health, model, jobs, openai, metrics):
        app.include_router(routes.router)
    if services.executions is not None:
        app.include_router(execute.router)
    install_error_handlers(app, services.metrics)
    app.add_middleware(LingeringClose)
    app.add_middleware(CutOff, metrics=services.metrics)
    app.add_middleware(RequestTimes, metrics=services.metrics)
    app.add_middleware(ModelInPath)
    return app
