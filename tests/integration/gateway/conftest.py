"""A gateway in front of a real API server, a real operator, and servers in the place of pods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.api_server import ApiServer
from testing.cluster_fixtures import (
    api_server,
    controllers,
    kubelet,
    model,
    namespace,
    operator,
    pytest_runtest_setup,
    rights,
)
from testing.gateway_process import GatewayProcess, grant_gateway_rights, running_gateway
from testing.live_model import LiveModel
from testing.operator_process import OperatorProcess

IDLE = {"unloadAfter": "1s", "scaleToZeroAfter": "2s"}

__all__ = ["api_server", "controllers", "kubelet", "model", "namespace", "operator", "pytest_runtest_setup", "rights"]


@pytest.fixture(scope="session")
def gateway_rights(api_server: ApiServer) -> None:
    """The gateway's rights, the same in all tests."""
    grant_gateway_rights(api_server)


@pytest.fixture
def gateway(
    api_server: ApiServer, gateway_rights: None, operator: OperatorProcess, namespace: str, tmp_path: Path
) -> Iterator[GatewayProcess]:
    """A gateway, running for the test's namespace."""
    with running_gateway(api_server, tmp_path / "gateway", namespace=namespace) as running:
        yield running


@pytest.fixture
def at_zero(model: LiveModel) -> LiveModel:
    """A model at zero."""
    model.apply(idle=IDLE)
    model.wait_for(state="Zero")
    return model
