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
    """Return the stream, so that it is the loop that closes it."""
    asyncio.get_running_loop().set_exception_handler(log_unless_from_kopf)
    await anext(stream)
    return stream


def test_watches_that_hand_over_an_event_at_the_end_are_closed_in_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "continuous_watch", events)
    resource: Any = "pods"
    watch = watching.infinite_watch(settings=kopf.OperatorSettings(), resource=resource, namespace=None)
    with caplog.at_level(logging.WARNING):
        kept = asyncio.run(ends_in_the_middle_of(watch))
    assert kept is not None
    assert caplog.records == []


def test_tasks_of_kopf_whose_failure_nobody_takes_are_forgotten_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    async def forget() -> None:
        asyncio.get_running_loop().set_exception_handler(log_unless_from_kopf)
        await asyncio.wait([aiotasks.create_guarded_task(fail(), name="watcher")])

    asyncio.run(forget())
    gc.collect()
    assert caplog.records == []


def test_what_else_cannot_be_closed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise RuntimeError("no")

    kept = asyncio.run(ends_in_the_middle_of(stubborn()))
    assert kept is not None
    assert "an error occurred during closing of asynchronous generator" in caplog.text


def test_a_port_that_is_taken_is_told_once() -> None:
    words = "error while attempting to bind on address ('0.0.0.0', 8080): address already in use"
    assert str(PortUnavailable(8080, OSError(errno.EADDRINUSE, words), setting="A_PORT")) == (
        "port 8080: Address already in use: set A_PORT to another port, or to 0 for none"
    )


def test_it_may_open_as_many_files_as_the_system_lets_it() -> None:
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft // 2, hard))
    try:
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
