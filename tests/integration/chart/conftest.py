"""Helm, and one real API server for all tests of the chart."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from testing.api_server import CRD as CRD_FILE
from testing.api_server import HOW_TO_GET_THEM, ApiServer, binaries, running_api_server
from testing.chart import helm as program
from testing.chart.helm import HOW_TO_GET_IT, Helm, Json, Release, Rendered
from testing.chart.options import OPTIONS
from testing.chart.releases import CRD
from testing.operator_process import eventually

MODELS = "/apis/audio-transcriber.io/v1alpha1/whispermodels"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose programs are not installed. Skipping from one place gives one line in the report."""
    fixtures = item.fixturenames if isinstance(item, pytest.Function) else []
    if os.environ.get("CI") == "true":
        return
    if "helm" in fixtures and not program.is_installed():
        pytest.skip(HOW_TO_GET_IT)
    if "api_server" in fixtures and binaries() is None:
        pytest.skip(HOW_TO_GET_THEM)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    if not program.is_installed():
        pytest.fail(HOW_TO_GET_IT)
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session", params=OPTIONS.values(), ids=list(OPTIONS))
def values(request: pytest.FixtureRequest) -> Json:
    """Each set of values in turn."""
    return request.param


@pytest.fixture(scope="session")
def rendered(helm: Helm, values: Json) -> Rendered:
    """The chart rendered with these values. The objects are shared between tests: do not modify them."""
    return helm.render(**values)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server for the tests of this folder."""
    programs = binaries()
    if programs is None:
        pytest.fail(HOW_TO_GET_THEM)
    with running_api_server(tmp_path_factory.mktemp("api-server"), programs) as api:
        yield api


@pytest.fixture
def empty_cluster(api_server: ApiServer) -> ApiServer:
    """The API server without the CRD, as before the first installation."""
    api_server.client().delete(CRD)
    eventually(lambda: api_server.client().get(CRD).status_code == 404, "the CRD is gone")
    eventually(lambda: api_server.client().get(MODELS).status_code == 404, "WhisperModels are no longer served")
    return api_server


@pytest.fixture
def whispermodels(api_server: ApiServer) -> None:
    """Install the CRD independently of the chart."""
    api_server.apply(CRD, yaml.safe_load(CRD_FILE.read_text()))
    eventually(lambda: api_server.client().get(MODELS).is_success, "WhisperModels are served")


@pytest.fixture
def cluster_helm(helm: Helm, api_server: ApiServer) -> Helm:
    """Helm connected to the API server, as administrator."""
    return Helm(helm.folder, api_server.kubeconfig())


@pytest.fixture
def release(cluster_helm: Helm, api_server: ApiServer) -> Iterator[Callable[..., Release]]:
    """Create releases, each in its own namespace, and uninstall them after the test."""
    made: list[Release] = []

    def make(name: str = program.RELEASE, *, chart: Path = program.CHART) -> Release:
        namespace = api_server.make_namespace(f"chart-{secrets.token_hex(4)}")
        made.append(Release(cluster_helm, name, namespace, chart))
        return made[-1]

    yield make
    for one in made:
        one.uninstall()
