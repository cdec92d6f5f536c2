"""The work queue: no key is lost, none is processed twice at once, and each comes when it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from testing.virtual_time import VirtualTimeLoop, run
from whisper_operator.runtime.work_queue import RetryDelay, WorkQueue

Story = Callable[[WorkQueue[str]], Coroutine[Any, Any, None]]
HOUR = 3600.0


def now() -> float:
    return asyncio.get_running_loop().time()


def in_virtual_time(story: Story) -> Callable[[], None]:
    def test() -> None:
        async def run_story() -> None:
            await story(WorkQueue(backoff=RetryDelay(first=1.0, most=60.0), clock=now))

        run(run_story)

    test.__name__ = story.__name__
    return test


async def take(queue: WorkQueue[str]) -> tuple[str, float]:
    """Take the next key and finish it; return it with the time."""
    async with queue.next_key() as key:
        return key, now()


async def idle_for(queue: WorkQueue[str], seconds: float) -> bool:
    """Return whether no key becomes due for so long."""
    try:
        async with asyncio.timeout(seconds):
            await take(queue)
    except TimeoutError:
        return True
    return False


@in_virtual_time
async def test_key_added_repeatedly_is_processed_once(queue: WorkQueue[str]) -> None:
    for _ in range(5):
        queue.add("a")
    assert len(queue) == 1
    assert await take(queue) == ("a", 0.0)
    assert await idle_for(queue, HOUR)


@in_virtual_time
async def test_keys_come_in_order_of_due_time(queue: WorkQueue[str]) -> None:
    queue.add("late", after=5)
    queue.add("first")
    queue.add("second")
    assert [await take(queue) for _ in range(3)] == [("first", 0.0), ("second", 0.0), ("late", 5.0)]


@in_virtual_time
async def test_key_added_while_in_progress_is_due_right_after(queue: WorkQueue[str]) -> None:
    queue.add("a")
    async with queue.next_key():
        queue.add("a")
        assert await idle_for(queue, 10)
        assert len(queue) == 0
    assert await take(queue) == ("a", 10.0)


@in_virtual_time
async def test_key_in_progress_does_not_delay_others(queue: WorkQueue[str]) -> None:
    queue.add("a")
    async with queue.next_key():
        queue.add("a")
        queue.add("b")
        assert await take(queue) == ("b", 0.0)


@in_virtual_time
async def test_key_is_not_in_progress_after_an_error(queue: WorkQueue[str]) -> None:
    queue.add("a")
    with suppress(RuntimeError):
        async with queue.next_key() as key:
            queue.add(key)
            raise RuntimeError("no")
    assert await take(queue) == ("a", 0.0)


@pytest.mark.parametrize(
    ("delays", "due"),
    [
        pytest.param([30, 10], 10.0, id="an earlier appointment replaces a later one"),
        pytest.param([10, 30], 10.0, id="a later appointment leaves an earlier one"),
        pytest.param([10, 0], 0.0, id="what is due now does not wait for an appointment"),
        pytest.param([-5], 0.0, id="an appointment in the past is due now"),
    ],
)
def test_earliest_due_time_wins(delays: list[float], due: float) -> None:
    async def story() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        for delay in delays:
            queue.add("a", after=delay)
        assert await take(queue) == ("a", due)
        assert await idle_for(queue, HOUR)

    run(story)


@in_virtual_time
async def test_waiting_worker_notices_an_earlier_due_time(queue: WorkQueue[str]) -> None:
    queue.add("a", after=HOUR)
    worker = asyncio.create_task(take(queue))
    await asyncio.sleep(60)
    queue.add("a", after=1)
    assert await worker == ("a", 61.0)


@in_virtual_time
async def test_due_time_set_while_in_progress_is_kept(queue: WorkQueue[str]) -> None:
    queue.add("a")
    async with queue.next_key() as key:
        queue.add(key, after=20)
        await asyncio.sleep(5)
    assert await take(queue) == ("a", 20.0)


@in_virtual_time
async def test_back_off_doubles_up_to_its_limit(queue: WorkQueue[str]) -> None:
    waits = [queue.retry("a") for _ in range(9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@in_virtual_time
async def test_success_ends_the_back_off_of_its_key_only(queue: WorkQueue[str]) -> None:
    queue.retry("a")
    queue.retry("a")
    assert queue.retry("b") == 1
    queue.succeeded("a")
    assert queue.retry("a") == 1


@in_virtual_time
async def test_failed_key_is_due_after_its_back_off(queue: WorkQueue[str]) -> None:
    queue.add("a")
    async with queue.next_key() as key:
        queue.retry(key)
    assert await take(queue) == ("a", 1.0)


@in_virtual_time
async def test_change_is_processed_despite_the_back_off(queue: WorkQueue[str]) -> None:
    for _ in range(6):
        queue.retry("a")
    queue.add("a")
    assert await take(queue) == ("a", 0.0)


async def test_back_off_does_not_overflow() -> None:
    assert RetryDelay().after(100_000) == 60.0


@in_virtual_time
async def test_cancelled_worker_loses_no_key(queue: WorkQueue[str]) -> None:
    worker = asyncio.create_task(take(queue))
    await asyncio.sleep(1)
    queue.add("a")
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert await take(queue) == ("a", 1.0)


@in_virtual_time
async def test_many_workers_share_many_keys(queue: WorkQueue[str]) -> None:
    seen: list[str] = []

    async def work() -> None:
        while True:
            async with queue.next_key() as key:
                seen.append(key)
                await asyncio.sleep(1)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    await asyncio.sleep(0.5)
    for number in range(10):
        queue.add(str(number))
    await asyncio.sleep(2.9)
    assert sorted(seen, key=int) == [str(number) for number in range(10)]
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


def test_outdated_heap_entries_are_removed() -> None:
    queue: WorkQueue[int] = WorkQueue(clock=lambda: 0.0)
    for delay in range(20_000, 0, -1):
        queue.add(delay % 10, after=delay)
    assert len(queue._heap) < 200


@in_virtual_time
async def test_repeated_adds_do_not_grow_the_heap(queue: WorkQueue[str]) -> None:
    for _ in range(1_000):
        queue.add("a")
        async with queue.next_key() as key:
            queue.add(key, after=HOUR)
    assert len(queue._heap) < 200
    assert await take(queue) == ("a", HOUR)


class WorkQueueMachine(RuleBasedStateMachine):
    """Compares the queue with a dictionary of due times and a set of keys in progress."""

    keys = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.time = self.runner.get_loop().time
        self.queue: WorkQueue[str] = WorkQueue(backoff=RetryDelay(first=1.0, most=8.0), clock=self.time)
        self.due: dict[str, float] = {}
        self.failures: dict[str, int] = {}
        self.working: dict[str, AbstractAsyncContextManager[str]] = {}

    def run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(operation)

    def teardown(self) -> None:
        for block in self.working.values():
            self.run(block.__aexit__(None, None, None))
        self.runner.close()

    def appoint(self, key: str, after: float) -> None:
        self.due[key] = min(self.due.get(key, float("inf")), self.time() + after)

    def ready(self) -> list[str]:
        return [key for key, at in self.due.items() if at <= self.time() and key not in self.working]

    @rule(key=keys, after=st.sampled_from([0.0, 0.0, 1.0, 5.0, 60.0]))
    def add(self, key: str, after: float) -> None:
        self.queue.add(key, after=after)
        self.appoint(key, after)

    @rule(key=keys)
    def retry(self, key: str) -> None:
        self.failures[key] = self.failures.get(key, 0) + 1
        wait = min(2.0 ** (self.failures[key] - 1), 8.0)
        assert self.queue.retry(key) == wait
        self.appoint(key, wait)

    @rule(key=keys)
    def succeed(self, key: str) -> None:
        self.queue.succeeded(key)
        self.failures.pop(key, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule()
    def take(self) -> None:
        block = self.queue.next_key()

        async def taken() -> str | None:
            try:
                async with asyncio.timeout(0.001):
                    return await block.__aenter__()
            except TimeoutError:
                return None

        ready = self.ready()
        key = self.run(taken())
        if not ready:
            assert key is None
            return
        assert key in ready
        assert self.due[key] == min(self.due[other] for other in ready)
        del self.due[key]
        self.working[key] = block

    @precondition(lambda self: self.working)
    @rule(which=st.integers(0, 3))
    def finish(self, which: int) -> None:
        key = sorted(self.working)[which % len(self.working)]
        self.run(self.working.pop(key).__aexit__(None, None, None))

    @invariant()
    def what_is_due_is_what_should_be(self) -> None:
        assert len(self.queue) == len(self.ready())
        assert len(self.queue._heap) <= 2 * 4 + 64 + 1


WorkQueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWorkQueueAgainstAModel = WorkQueueMachine.TestCase
