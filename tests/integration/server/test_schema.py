"""schemathesis over the server's /openapi.json."""

from __future__ import annotations

import pytest
from schemathesis.generation import GenerationMode

from testing.schema_cases import check_every_operation
from testing.server_process import ServerProcess


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_every_answer_is_documented(server: ServerProcess, subtests: pytest.Subtests, mode: GenerationMode) -> None:
    check_every_operation(server.url, subtests, mode=mode)
