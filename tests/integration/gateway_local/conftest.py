"""A gateway to the models of a folder, with real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testing.api_server import free_port
from testing.local_gateway import LocalGateway, running_local_gateway

StartGateway = Callable[..., LocalGateway]


@pytest.fixture
def prepared(weights: dict[str, Path], tmp_path: Path) -> LocalGateway:
    """A gateway that is not started yet, without models."""
    (tmp_path / "models").mkdir()
    return LocalGateway(tmp_path, weights, free_port())


@pytest.fixture
def start_gateway(prepared: LocalGateway) -> Iterator[StartGateway]:
    """Start the gateway with settings; it ends with the test."""
    with ExitStack() as stack:

        def start(**environment: str) -> LocalGateway:
            prepared.environment |= environment
            return stack.enter_context(running_local_gateway(prepared))

        yield start
