"""schemathesis over the gateway's /openapi.json, while a model is at zero that requests may wake."""

from __future__ import annotations

import pytest
from schemathesis.generation import GenerationMode

from testing.gateway_process import GatewayProcess
from testing.live_model import LiveModel
from testing.schema_cases import check_every_operation


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_every_answer_is_documented(
    gateway: GatewayProcess, at_zero: LiveModel, subtests: pytest.Subtests, mode: GenerationMode
) -> None:
    check_every_operation(gateway.url, subtests, mode=mode, headers={"Authorization": "Bearer ana"})
