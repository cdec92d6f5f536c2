"""Fixtures for the programs that these tests run; tests are skipped if they are not installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testing import api_server
from testing.chart import helm
from testing.monitoring import prometheus_process


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose programs are not installed. Skipping from one place gives one line in the report."""
    fixtures = item.fixturenames if isinstance(item, pytest.Function) else []
    if os.environ.get("CI") == "true":
        return
    if "prometheus_programs" in fixtures and prometheus_process.binaries() is None:
        pytest.skip(prometheus_process.HOW_TO_GET_THEM)
    if "observations" in fixtures and api_server.binaries() is None:
        pytest.skip(api_server.HOW_TO_GET_THEM)
    if "observations" in fixtures and not helm.is_installed():
        pytest.skip(helm.HOW_TO_GET_IT)


@pytest.fixture(scope="session")
def prometheus_programs() -> Path:
    """The folder of prometheus and promtool."""
    programs = prometheus_process.binaries()
    if programs is None:
        pytest.fail(prometheus_process.HOW_TO_GET_THEM)
    return programs


@pytest.fixture(scope="session")
def cluster_programs() -> Path:
    """The folder of the API server."""
    programs = api_server.binaries()
    if programs is None:
        pytest.fail(api_server.HOW_TO_GET_THEM)
    return programs
