"""One call is shared among concurrent callers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from testing.virtual_time import run
from whisper_inference.service.shared_call import SharedCall


def in_virtual_time(body: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run(body)

    test.__name__ = body.__name__
    return test


class Slow:
    """Takes a second and returns when it began, in seconds of the loop."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.error: Exception | None = None

    async def __call__(self) -> float:
        at = asyncio.get_running_loop().time()
        self.began.append(at)
        await asyncio.sleep(1)
        if self.error:
            raise self.error
        return at


@in_virtual_time
async def test_concurrent_callers_share_one_call() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    answers = await asyncio.gather(*(shared() for _ in range(100)))
    assert answers == slow.began * 100


@in_virtual_time
async def test_later_callers_share_the_next_call() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    first = asyncio.create_task(shared())
    await asyncio.sleep(0.5)
    asked = asyncio.get_running_loop().time()
    later = await asyncio.gather(*(shared() for _ in range(100)))
    assert len(slow.began) == 2
    assert set(later) == {slow.began[1]}
    assert await first < asked <= later[0]


@in_virtual_time
async def test_cancelled_caller_does_not_affect_the_others() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    gone, staying = asyncio.create_task(shared()), asyncio.create_task(shared())
    await asyncio.sleep(0.5)
    gone.cancel()
    assert await staying == slow.began[0]


@in_virtual_time
async def test_error_reaches_all_callers_and_is_not_cached() -> None:
    slow = Slow()
    slow.error = OSError("full")
    shared = SharedCall(slow)
    answers = await asyncio.gather(shared(), shared(), return_exceptions=True)
    assert answers == [slow.error] * 2
    slow.error = None
    assert await shared() == slow.began[1]


def test_unawaited_error_is_not_reported_by_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        slow = Slow()
        slow.error = OSError("full")
        gone = asyncio.create_task(SharedCall(slow)())
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(1)

    run(body)
    gc.collect()
    assert not caplog.records
