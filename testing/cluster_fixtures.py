"""Fixtures for tests that need a real API server: the server, its controllers, pods, a model and the operator."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.api_server import HOW_TO_GET_THEM, ApiServer, Program, binaries, running_api_server, running_controllers
from testing.kubelet_stand_in import Kubelet, running_kubelet
from testing.live_model import LiveModel
from testing.operator_process import OperatorProcess, grant_rights, running_operator


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need an API server if there is none, with one line in the report."""
    needs_one = isinstance(item, pytest.Function) and "api_server" in item.fixturenames
    if needs_one and binaries() is None and os.environ.get("CI") != "true":
        pytest.skip(HOW_TO_GET_THEM)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the CRD installed, started for this test run."""
    programs = binaries()
    if programs is None:
        pytest.fail(HOW_TO_GET_THEM)
    with running_api_server(tmp_path_factory.mktemp("api-server"), programs) as api:
        yield api


@pytest.fixture(scope="session")
def controllers(api_server: ApiServer) -> Iterator[Program]:
    """The controllers for Deployments, ReplicaSets and garbage collection."""
    with running_controllers(api_server) as running:
        yield running


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A namespace for one test."""
    return api_server.make_namespace(f"test-{secrets.token_hex(4)}")


@pytest.fixture(scope="session")
def kubelet(api_server: ApiServer, controllers: Program) -> Iterator[Kubelet]:
    """Servers for all pods, in one thread of this process."""
    with running_kubelet(api_server) as running:
        yield running


@pytest.fixture(scope="session")
def rights(api_server: ApiServer) -> None:
    """The operator's rights, the same in all tests."""
    grant_rights(api_server)


@pytest.fixture
def model(api_server: ApiServer, kubelet: Kubelet, namespace: str) -> Iterator[LiveModel]:
    """A WhisperModel that is not applied yet, in its own namespace; deleted after the test."""
    kubelet.reset()
    model = LiveModel(api_server, kubelet, namespace)
    yield model
    api_server.client().delete(model.path)
    for kind in ("deployments", "replicasets"):
        api_server.client().delete(f"/apis/apps/v1/namespaces/{namespace}/{kind}")
    api_server.client().request(
        "DELETE", f"/api/v1/namespaces/{namespace}/pods", json={"gracePeriodSeconds": 0, "kind": "DeleteOptions"}
    )


@pytest.fixture
def operator(api_server: ApiServer, rights: None, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    """The operator, running for the test's namespace."""
    with running_operator(api_server, tmp_path, namespace=namespace) as running:
        yield running
