"""Errors as HTTP that a real server cannot be made to return in a test."""

from __future__ import annotations

import sqlite3

from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError

from whisper_inference.api.problem import install_error_handlers
from whisper_inference.service.request_metrics import RequestMetrics


def test_busy_database_is_503() -> None:
    app = FastAPI()
    install_error_handlers(app, RequestMetrics(CollectorRegistry()))

    @app.get("/jobs")
    def jobs() -> None:
        raise OperationalError("SELECT", None, sqlite3.OperationalError("database is locked"))

    answer = TestClient(app).get("/jobs")
    assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
    assert answer.json()["title"] == "Database unavailable"
    assert "database is locked" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
