"""One real API server for all tests of the operator."""

from __future__ import annotations

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

__all__ = ["api_server", "controllers", "kubelet", "model", "namespace", "operator", "pytest_runtest_setup", "rights"]
