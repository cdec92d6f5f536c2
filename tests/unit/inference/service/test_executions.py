"""Jobs that gateways send: who gets the slot, when it is free again, and what the gateway is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from testing.dispatcher_harness import LOST, Attempt, CountingMetrics, ScriptedExecutor
from testing.jobs import open_spool
from testing.virtual_time import run
from whisper_inference.errors import JobNotFound, LoadFailed, ServiceError, ShuttingDown, TooManyWaiting
from whisper_inference.execution import (
    ExecuteMessage,
    Finished,
    Granted,
    Heartbeat,
    JobInput,
    Lost,
    Refused,
    SectionDone,
    Stopped,
)
from whisper_inference.jobs.limits import Limits
from whisper_inference.jobs.spool import Spool
from whisper_inference.model_control import ModelFacts
from whisper_inference.service.executions import CallerGone, Executions
from whisper_inference.transcripts.transcript import Options, Resume
from whisper_inference.worker.protocol import frame
from whispermodel.states import Depth, State


@dataclass
class ExecutionMetricsStandIn(CountingMetrics):
    cold_starts: list[str] = field(default_factory=list)

    def cold_start(self, path: str, phases: Mapping[str, float]) -> None:
        self.cold_starts.append(path)


@dataclass
class CallerStandIn:
    """A gateway that sends its order once it has the slot."""

    job: str = "j"
    resume: Resume | None = None
    sent: list[ExecuteMessage] = field(default_factory=list)
    deaf: bool = False
    """Whether it reads nothing any more."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    _ordered: bool = False

    async def send(self, message: ExecuteMessage) -> None:
        if self.deaf and self._ordered:
            raise CallerGone
        self.sent.append(message)
        if isinstance(message, Granted):
            self.granted.set()

    async def receive(self) -> bytes | None:
        if self._ordered:
            return None
        waiting = [asyncio.create_task(event.wait()) for event in (self.granted, self.left)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self.left.is_set():
            raise CallerGone
        self._ordered = True
        return frame(JobInput(job=self.job, options=Options(), resume=self.resume, max_audio_seconds=60)) + b"audio"

    async def gone(self) -> None:
        await self.left.wait()

    @property
    def outcome(self) -> ExecuteMessage:
        return self.sent[-1]


@dataclass
class Harness:
    """Executions over a scripted executor."""

    executor: ScriptedExecutor
    spool: Spool
    metrics: ExecutionMetricsStandIn = field(default_factory=ExecutionMetricsStandIn)
    failure: ServiceError | None = None
    changed: set[asyncio.Event] = field(default_factory=set)
    executions: Executions = field(init=False)

    def __post_init__(self) -> None:
        facts = SimpleNamespace(
            state=State.UNLOADED,
            depth=Depth.COLD,
            last_load=None,
            load_failure=lambda: self.failure,
            ready_in_seconds=3.0,
        )
        self.executions = Executions(
            self.executor,
            self.spool,
            facts=lambda: cast("ModelFacts", facts),
            changes=self._changes,
            limits=Limits(max_waiting=2, max_wait=timedelta(), max_audio_bytes=100, max_audio_seconds=60),
            metrics=self.metrics,
            cold_start=self.metrics.cold_start,
            cancel_seconds=0.05,
        )

    @contextmanager
    def _changes(self) -> Generator[asyncio.Event]:
        event = asyncio.Event()
        self.changed.add(event)
        yield event
        self.changed.discard(event)

    def fail_load(self, error: ServiceError) -> None:
        self.failure = error
        for event in self.changed:
            event.set()

    @asynccontextmanager
    async def serving(self, caller: CallerStandIn) -> AsyncGenerator[asyncio.Task[None]]:
        task = asyncio.create_task(self.executions.serve(caller))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def serve(self, caller: CallerStandIn) -> ExecuteMessage:
        async with asyncio.timeout(10):
            await self.executions.serve(caller)
        return caller.outcome


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with open_spool(tmp_path / "spool") as spool:
        yield Harness(ScriptedExecutor(), spool)


async def until(fact: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110 (what is scripted has no events)
            await asyncio.sleep(0.002)


def files(harness: Harness) -> list[Path]:
    root = harness.spool.local_path("audio")
    assert root is not None
    return [path for path in root.rglob("*") if path.is_file()]


async def test_job_is_run_with_its_resume_and_leaves_no_audio(harness: Harness) -> None:
    resume = Resume(next_start_sample=160_000, next_segment_id=1)
    caller = CallerStandIn(resume=resume)
    assert await harness.serve(caller) == Finished(job="j", seconds=30.0)
    assert [type(message) for message in caller.sent[:1]] == [Granted]
    assert sum(isinstance(message, SectionDone) for message in caller.sent) == 2
    assert harness.executor.orders == [("j", resume)]
    assert (harness.metrics.started, harness.metrics.succeeded) == (1, 1)
    assert files(harness) == []
    assert await harness.spool.quota.stored_bytes() == 0


def test_waiting_caller_gets_a_heartbeat_every_second() -> None:
    async def story() -> None:
        # Nothing is stored before there is a slot.
        harness = Harness(ScriptedExecutor(), cast("Spool", None))
        harness.executor.open.clear()
        caller = CallerStandIn()
        async with harness.serving(caller):
            await asyncio.sleep(5.5)
            assert caller.sent == [Heartbeat()] * 5

    run(story)


async def test_failed_load_refuses_the_callers_that_wait(harness: Harness) -> None:
    harness.executor.open.clear()
    callers = [CallerStandIn("a"), CallerStandIn("b")]
    async with harness.serving(callers[0]) as first, harness.serving(callers[1]) as second:
        await until(lambda: len(harness.changed) == 2, "both wait")
        harness.fail_load(LoadFailed(cause="broken", retry_after=4.0))
        await asyncio.wait_for(asyncio.gather(first, second), 10)
    refused = Refused("", "model-load-failed", {"cause": "broken"}, retry_after=4.0)
    assert [caller.outcome for caller in callers] == [refused, refused]
    assert harness.executions.callers == 0


async def test_caller_that_leaves_while_it_waits_gives_up_its_place(harness: Harness) -> None:
    harness.executor.open.clear()
    caller = CallerStandIn()
    async with harness.serving(caller) as serving:
        await until(lambda: harness.executions.waiting, "it waits")
        caller.left.set()
        await asyncio.wait_for(serving, 10)
    assert harness.executions.callers == 0
    assert caller.sent == []


async def test_caller_that_reads_nothing_cancels_its_job(harness: Harness) -> None:
    harness.executor.held.add("j")
    caller = CallerStandIn(deaf=True)
    await harness.serve(caller)
    assert caller.sent == [Granted()]
    assert (harness.executor.kills, files(harness)) == ([], [])


async def test_caller_that_leaves_cancels_its_job(harness: Harness) -> None:
    harness.executor.held.add("j")
    caller = CallerStandIn()
    async with harness.serving(caller) as serving:
        await until(lambda: harness.executions.running == ("j",), "it runs")
        caller.left.set()
        await asyncio.wait_for(serving, 10)
    assert harness.executor.kills == []
    assert files(harness) == []
    assert await harness.serve(CallerStandIn("k")) == Finished(job="k", seconds=30.0)


async def test_worker_that_does_not_stop_for_a_caller_that_left_is_killed(harness: Harness) -> None:
    harness.executor.scripts["j"].append(Attempt(ignores_cancel=True))
    harness.executor.scripts["ignores_cancel"].append(Attempt())
    harness.executor.held.add("j")
    caller = CallerStandIn()
    async with harness.serving(caller) as serving:
        await until(lambda: harness.executions.running == ("j",), "it runs")
        caller.left.set()
        await asyncio.wait_for(serving, 10)
    assert harness.executor.kills == ["cancelled"]


async def test_cancelled_job_is_stopped(harness: Harness) -> None:
    harness.executor.held.add("j")
    caller = CallerStandIn()
    async with harness.serving(caller) as serving:
        await until(lambda: harness.executions.running == ("j",), "it runs")
        await harness.executions.cancel("j")
        await harness.executions.cancel("j")
        await asyncio.wait_for(serving, 10)
    assert caller.outcome == Stopped(job="j")
    with pytest.raises(JobNotFound):
        await harness.executions.cancel("j")


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (LOST, Lost("crash", "killed by signal SIGKILL")),
        (LoadFailed(cause="broken"), Refused("j", "model-load-failed", {"cause": "broken"})),
        (OSError("the disk is gone"), Lost("store", "OSError: the disk is gone")),
    ],
)
async def test_end_of_an_attempt_is_reported(harness: Harness, end: Exception, outcome: ExecuteMessage) -> None:
    harness.executor.scripts["j"].append(Attempt(sections=1, end=end))
    with capture_logs():
        assert await harness.serve(CallerStandIn()) == outcome
    assert harness.metrics.succeeded == 0
    assert files(harness) == []


async def test_interrupted_caller_is_told_that_the_server_stops(harness: Harness) -> None:
    harness.executor.held.add("j")
    caller = CallerStandIn()
    async with harness.serving(caller):
        await until(lambda: harness.executions.running == ("j",), "it runs")
    assert caller.outcome == Lost("stopped", "the server is stopping")
    assert files(harness) == []


async def test_stopping_server_refuses_callers(harness: Harness) -> None:
    harness.executions.require_acceptable()
    harness.executions.stop_accepting()
    with pytest.raises(ShuttingDown):
        harness.executions.require_acceptable()
    assert await harness.serve(CallerStandIn()) == Refused("", "shutting-down", {})


async def test_stopping_server_refuses_callers_that_wait_and_keeps_the_running_job(harness: Harness) -> None:
    harness.executor.held.add("running")
    running, waiting = CallerStandIn("running"), CallerStandIn("waiting")
    async with harness.serving(running) as first:
        await until(lambda: harness.executions.running, "the first runs")
        async with harness.serving(waiting) as second:
            await until(lambda: harness.executions.waiting, "the second waits")
            harness.executions.stop_accepting()
            await asyncio.wait_for(second, 10)
        assert waiting.sent == [Refused("", "shutting-down", {})]
        assert harness.executions.running == ("running",)
        await harness.executions.cancel("running")
        await asyncio.wait_for(first, 10)
    assert running.outcome == Stopped(job="running")


async def test_more_callers_than_may_wait_are_refused(harness: Harness) -> None:
    harness.executor.open.clear()
    async with harness.serving(CallerStandIn()), harness.serving(CallerStandIn()):
        await until(lambda: harness.executions.callers == 2, "two wait")
        with pytest.raises(TooManyWaiting) as refused:
            harness.executions.require_acceptable()
        assert refused.value.retry_after == 3.0


async def test_order_before_the_slot_is_refused(harness: Harness) -> None:
    harness.executor.open.clear()
    caller = CallerStandIn()
    caller.granted.set()
    outcome = await harness.serve(caller)
    assert isinstance(outcome, Refused)
    assert outcome.params == {"reason": "the order was sent before the slot was granted"}
