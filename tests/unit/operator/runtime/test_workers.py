"""The workers in virtual time: failures are retried, defects are logged, hanging keys are noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

import pytest
import structlog

from testing.operator_harness import NOON, seconds
from testing.virtual_time import run
from whisper_cluster.errors import ClusterError, NotLeading
from whisper_operator.runtime.work_queue import RetryDelay, WorkQueue
from whisper_operator.runtime.workers import RECONCILE_SECONDS, Workers
from whispermodel.key import Key

BASE, LARGE = Key("speech", "base"), Key("speech", "large")
REFUSED = ClusterError("patch", code=500, reason="no")
Reconcile = Callable[[Key], Awaitable[datetime | None]]


def now() -> float:
    return asyncio.get_running_loop().time()


def clock() -> datetime:
    return NOON + seconds(now())


@dataclass
class ScriptedReconciler:
    """Returns scripted results in order, the last one forever. most: the maximum number of keys at once."""

    results: list[Reconcile]
    seen: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    in_work: list[Key] = field(default_factory=list[Key])
    most: int = 0

    async def reconcile(self, key: Key) -> datetime | None:
        assert key not in self.in_work
        self.seen.append((key.name, now()))
        self.in_work.append(key)
        self.most = max(self.most, len(self.in_work))
        reconcile = self.results[0] if len(self.results) == 1 else self.results.pop(0)
        try:
            return await reconcile(key)
        finally:
            self.in_work.remove(key)

    @property
    def times(self) -> list[float]:
        return [at for _, at in self.seen]


@dataclass
class RecordedMetrics:
    """Counts reconciliations."""

    results: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    def reconciled(self, result: str, seconds: float) -> None:
        self.results.append((result, seconds))


async def done(_: Key) -> None:
    return None


def again_in(wait: float) -> Reconcile:
    async def reconcile(_: Key) -> datetime:
        return clock() + seconds(wait)

    return reconcile


def raising(error: Exception) -> Reconcile:
    async def reconcile(_: Key) -> None:
        raise error

    return reconcile


def taking(duration: float) -> Reconcile:
    async def reconcile(_: Key) -> None:
        await asyncio.sleep(duration)

    return reconcile


class RunningWorkers(AbstractAsyncContextManager["RunningWorkers"]):
    """Workers on a queue with a scripted reconciler."""

    def __init__(self, *results: Reconcile, count: int = 2) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(backoff=RetryDelay(first=1.0, most=4.0), clock=now)
        self.reconciler = ScriptedReconciler(list(results))
        self.metrics = RecordedMetrics()
        self.workers = Workers(self.queue, self.reconciler, self.metrics, clock)
        self._count = count

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.workers.run(self._count))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def in_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        with structlog.testing.capture_logs():
            run(story)

    test.__name__ = story.__name__
    return test


@in_virtual_time
async def test_key_is_reconciled_again_at_its_check_time() -> None:
    async with RunningWorkers(again_in(30), again_in(600), done) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(10_000)
        assert harness.reconciler.times == [0, 30, 630]
        assert [result for result, _ in harness.metrics.results] == ["success"] * 3


@in_virtual_time
async def test_check_time_in_the_past_means_now() -> None:
    async with RunningWorkers(again_in(-5), done) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(1)
        assert harness.reconciler.times == [0, 0]


@in_virtual_time
async def test_worker_count_limits_concurrency() -> None:
    async with RunningWorkers(taking(10), count=3) as harness:
        for number in range(7):
            harness.queue.add(Key("speech", str(number)))
        await asyncio.sleep(100)
        assert (len(harness.reconciler.seen), harness.reconciler.most) == (7, 3)
        assert harness.reconciler.times == [0, 0, 0, 10, 10, 10, 20]


@in_virtual_time
async def test_key_changed_in_progress_is_reconciled_again_by_one_worker() -> None:
    async with RunningWorkers(taking(10), done) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(1)
        harness.queue.add(BASE)
        await asyncio.sleep(100)
        assert (harness.reconciler.times, harness.reconciler.most) == ([0, 10], 1)


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        pytest.param(REFUSED, [("warning", "reconcile.failed")], id="the API server refuses"),
        pytest.param(NotLeading("patch"), [("warning", "reconcile.failed")], id="the lease has run out"),
        pytest.param(ValueError("a defect"), [("error", "reconcile.broke")], id="a defect"),
    ],
)
def test_failure_is_logged_and_retried_with_back_off(error: Exception, logged: list[tuple[str, str]]) -> None:
    async def story() -> None:
        async with RunningWorkers(raising(error), raising(error), raising(error), raising(error), done) as harness:
            harness.queue.add(BASE)
            await asyncio.sleep(100)
            assert harness.reconciler.times == [0, 1, 3, 7, 11]
            assert [result for result, _ in harness.metrics.results] == ["error"] * 4 + ["success"]

    with structlog.testing.capture_logs() as logs:
        run(story)
    assert [(line["log_level"], line["event"]) for line in logs] == logged * 4
    assert {line["whispermodel"] for line in logs} == {"speech/base"}
    assert [line["retry_in"] for line in logs] == [1, 2, 4, 4]


@in_virtual_time
async def test_success_ends_the_back_off() -> None:
    async with RunningWorkers(raising(REFUSED), raising(REFUSED), again_in(10), raising(REFUSED), done) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(100)
        assert harness.reconciler.times == [0, 1, 3, 13, 14]


@in_virtual_time
async def test_failing_key_does_not_delay_others() -> None:
    async with RunningWorkers(raising(ValueError()), taking(1), count=1) as harness:
        harness.queue.add(BASE)
        harness.queue.add(LARGE)
        await asyncio.sleep(0.5)
        assert harness.reconciler.seen == [("base", 0), ("large", 0)]


@in_virtual_time
async def test_hanging_reconciliation_times_out_and_is_retried() -> None:
    async with RunningWorkers(taking(10_000), done) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(200)
        assert harness.reconciler.times == [0, RECONCILE_SECONDS + 1]
        assert harness.metrics.results == [("error", RECONCILE_SECONDS), ("success", 0)]


@in_virtual_time
async def test_reconciliation_that_ignores_cancellation_is_stuck() -> None:
    async def deaf(_: Key) -> None:
        end = now() + 1000
        while now() < end:
            try:
                await asyncio.sleep(end - now())
            except asyncio.CancelledError:
                continue

    async with RunningWorkers(deaf, done) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(2 * RECONCILE_SECONDS - 1)
        assert harness.workers.stuck() == []
        await asyncio.sleep(2)
        assert harness.workers.stuck() == [BASE]
        await asyncio.sleep(timedelta(hours=1).total_seconds())
        assert harness.workers.stuck() == []


@in_virtual_time
async def test_idle_workers_are_not_stuck() -> None:
    async with RunningWorkers(done) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(10_000)
        assert (harness.workers.stuck(), harness.workers.busy) == ([], {})


@in_virtual_time
async def test_stopped_workers_leave_no_key_in_progress() -> None:
    async with RunningWorkers(taking(50)) as harness:
        harness.queue.add(BASE)
        await asyncio.sleep(1)
        assert list(harness.workers.busy) == [BASE]
    assert (harness.workers.busy, harness.reconciler.in_work) == ({}, [])
