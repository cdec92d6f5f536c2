"""How the operator starts and ends."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import resource
from collections.abc import AsyncIterator
from typing import Any

import kopf
import pytest
from kopf._cogs.aiokits import aiotasks
from kopf._cogs.clients import watching

from whisper_operator.errors import PortUnavailable
from whisper_operator.runtime.app import log_unless_from_kopf, raise_open_files_limit


async def events(**_: Any) -> AsyncIterator[dict[str, str]]:
    yield {"type": "ADDED"}


async def ends_in_the_middle_of(stream: Any) -> object:
    """Return the stream, so that the loop closes it."""
    asyncio.get_running_loop().set_exception_handler(log_unless_from_kopf)
    await anext(stream)
    return stream


def test_kopf_watch_closed_while_yielding_logs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "continuous_watch", events)
    resource: Any = "pods"
    watch = watching.infinite_watch(settings=kopf.OperatorSettings(), resource=resource, namespace=None)
    with caplog.at_level(logging.WARNING):
        kept = asyncio.run(ends_in_the_middle_of(watch))
    assert kept is not None
    assert caplog.records == []


def test_unretrieved_error_of_a_kopf_task_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    async def forget() -> None:
        asyncio.get_running_loop().set_exception_handler(log_unless_from_kopf)
        await asyncio.wait([aiotasks.create_guarded_task(fail(), name="watcher")])

    asyncio.run(forget())
    gc.collect()
    assert caplog.records == []


def test_other_unraisable_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise RuntimeError("no")

    kept = asyncio.run(ends_in_the_middle_of(stubborn()))
    assert kept is not None
    assert "an error occurred during closing of asynchronous generator" in caplog.text


def test_port_in_use_message_states_the_cause_once() -> None:
    words = "error while attempting to bind on address ('0.0.0.0', 8080): address already in use"
    assert str(PortUnavailable(8080, OSError(errno.EADDRINUSE, words), setting="A_PORT")) == (
        "port 8080: Address already in use: set A_PORT to another port, or to 0 for none"
    )


def test_open_files_limit_is_raised_to_the_hard_limit() -> None:
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft // 2, hard))
    try:
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
