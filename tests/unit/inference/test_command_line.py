"""The command line of the server: what it prints, and what it imports for that."""

from __future__ import annotations

from importlib.metadata import version

from typer.testing import CliRunner

from testing.imports import imported_by
from whisper_inference.main import app


def test_version_is_printed_with_the_programs_name() -> None:
    ran = CliRunner().invoke(app, ["--version"])
    assert ran.exit_code == 0
    assert ran.stdout == f"whisper-inference {version('whisper-inference')}\n"


def test_printing_the_version_imports_nothing_that_only_serve_needs() -> None:
    imported = imported_by("whisper_inference", "--version")
    assert "whisper_inference.main" in imported
    assert {"av", "fastapi", "numpy", "sqlalchemy", "torch", "uvicorn"} & imported == set()
