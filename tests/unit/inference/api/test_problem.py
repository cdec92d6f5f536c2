"""Errors as HTTP that a real server cannot be made to return in a test."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import TimeoutError as NoConnectionInTime

from whisper_inference.api.problem import install_error_handlers
from whisper_inference.service.request_metrics import RequestMetrics


def test_busy_database_is_503() -> None:
    app = FastAPI()
    install_error_handlers(app, RequestMetrics(CollectorRegistry()))

    @app.get("/jobs")
    def jobs() -> None:
        raise NoConnectionInTime("no connection within 30 s")

    answer = TestClient(app).get("/jobs")
    assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
    assert answer.json()["title"] == "Database unavailable"
    assert "no connection within 30 s" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
