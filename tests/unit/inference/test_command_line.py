"""The command line of the server: its output and its imports."""

from __future__ import annotations

from importlib.metadata import version

from typer.testing import CliRunner

from testing.imports import imported_by, imported_with
from whisper_inference.main import app


def test_version_names_the_program() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"whisper-inference {version('whisper-inference')}\n"


def test_version_imports_nothing_that_only_serve_needs() -> None:
    imported = imported_by("whisper_inference", "--version")
    assert "whisper_inference.main" in imported
    assert {"av", "fastapi", "numpy", "sqlalchemy", "torch", "uvicorn"} & imported == set()


def test_what_a_gateway_does_not_need_stays_out_of_memory() -> None:
    imported = imported_with("whisper_inference.main", "whisper_inference.service.cluster_gateway")
    assert "whisper_cluster.api" in imported
    assert {"kubernetes.client", "obstore", "rich", "alembic"} & imported == set()
