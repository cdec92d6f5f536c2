"""One call for all who ask at the same time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from testing.virtual_time import run
from whisper_inference.service.shared_call import SharedCall


def in_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run(story)

    test.__name__ = story.__name__
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
async def test_all_who_ask_at_once_share_one_call() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    answers = await asyncio.gather(*(shared() for _ in range(100)))
    assert answers == slow.began * 100


@in_virtual_time
async def test_who_asks_while_one_runs_shares_the_next_which_began_after_the_question() -> None:
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
async def test_who_goes_away_takes_nobodys_answer() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    gone, staying = asyncio.create_task(shared()), asyncio.create_task(shared())
    await asyncio.sleep(0.5)
    gone.cancel()
    assert await staying == slow.began[0]


@in_virtual_time
async def test_an_error_is_everybodys_and_the_next_call_is_another() -> None:
    slow = Slow()
    slow.error = OSError("full")
    shared = SharedCall(slow)
    answers = await asyncio.gather(shared(), shared(), return_exceptions=True)
    assert answers == [slow.error] * 2
    slow.error = None
    assert await shared() == slow.began[1]


def test_an_error_that_nobody_waits_for_is_not_told_by_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        slow = Slow()
        slow.error = OSError("full")
        gone = asyncio.create_task(SharedCall(slow)())
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(1)

    run(story)
    gc.collect()
    assert not caplog.records
