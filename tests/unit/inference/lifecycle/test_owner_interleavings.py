"""Interleavings of commands, jobs, uploads, deaths and failures, in virtual time: no caller hangs, no job is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.depth import depth
from testing.owner_harness import MISSING, OwnerHarness
from testing.processes_stand_in import LoadScript, ReleaseScript
from testing.virtual_time import VirtualTimeLoop, run
from whisper_inference.errors import NotAudio
from whisper_inference.execution import ExecutorLost
from whispermodel.states import Depth, State

SECONDS = st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 30.0, 61.0])
FAILURES = st.sampled_from([None, None, None, MISSING, ExecutorLost("oom", "out of memory"), OSError("surprise")])
LOADS = st.builds(LoadScript, start=SECONDS, imports=SECONDS, loading=SECONDS, failure=FAILURES)
RELEASES = st.builds(
    ReleaseScript, seconds=SECONDS, failure=st.sampled_from([None, None, None, None, TimeoutError("not reaped")])
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@dataclass(frozen=True)
class Action:
    """One action. seconds: how long its job or upload lasts. patience: after which its caller leaves."""

    kind: str
    depth: Depth
    force: bool
    seconds: float
    patience: float | None
    pause: float


ACTIONS = st.builds(
    Action,
    kind=st.sampled_from(
        ["load", "unload", "unload", "job", "job", "upload", "refused upload", "worker dies", "zygote dies"]
    ),
    depth=st.sampled_from(Depth),
    force=st.booleans(),
    seconds=SECONDS,
    patience=st.none() | SECONDS,
    pause=SECONDS,
)


class Interleaving:
    """Performs actions, checks the invariants at every turn of the loop, and checks the outcome."""

    def __init__(self, harness: OwnerHarness) -> None:
        self.harness = harness
        self.tasks: list[asyncio.Task[object]] = []
        self.lasting_jobs = 0
        self.stopping = False
        loop = harness.loop
        assert isinstance(loop, VirtualTimeLoop)
        loop.each_turn = self.check

    def check(self) -> None:
        lifecycle, worker = self.harness.owner.lifecycle, self.harness.processes.worker
        assert not self.harness.processes.violations
        if self.stopping:
            return
        if lifecycle.state is State.LOADED:
            assert worker is not None, "Loaded without a worker"
        if lifecycle.state in (State.UNLOADED, State.FAILED) and worker is not None:
            assert worker.exited.done(), f"{lifecycle.state} with a living worker"

    async def play(self, actions: list[Action]) -> None:
        for action in actions:
            work = self.work_of(action)
            if work is not None:
                self.tasks.append(asyncio.create_task(patiently(work, action.patience)))
                self.lasting_jobs += action.kind == "job" and action.patience is None
            await asyncio.sleep(action.pause)

    def work_of(self, action: Action) -> Awaitable[object] | None:
        harness = self.harness
        match action.kind:
            case "load":
                return harness.owner.load("manual")
            case "unload":
                return harness.owner.unload(action.depth, reason="manual", force=action.force)
            case "job":
                return harness.job(action.seconds)
            case "upload":
                return self.upload(action.seconds)
            case "refused upload":
                return self.refused_upload(action.seconds)
            case "worker dies" if harness.processes.worker is not None:
                harness.processes.worker.die()
            case "zygote dies":
                harness.processes.lose_zygote()
            case _:
                pass
        return None

    async def upload(self, seconds: float) -> None:
        async with self.harness.owner.expected_work():
            await asyncio.sleep(seconds)

    async def refused_upload(self, seconds: float) -> None:
        active_at = None
        with suppress(NotAudio):
            async with self.harness.owner.expected_work():
                await asyncio.sleep(seconds)
                active_at = self.harness.owner.lifecycle.active_at
                raise NotAudio(reason="it is a picture")
        assert self.harness.owner.lifecycle.active_at == active_at

    async def stop(self) -> None:
        self.stopping = True
        async with asyncio.timeout(3600):
            await self.harness.owner.stop()

    async def answers(self) -> Counter[str]:
        """Return the answer of every caller; one without an answer after days of virtual time hangs."""
        async with asyncio.timeout(7 * 86_400):
            answers = await asyncio.gather(*self.tasks, return_exceptions=True)
        return Counter(type(answer).__name__ for answer in answers)


async def patiently(work: Awaitable[object], patience: float | None) -> object:
    try:
        async with asyncio.timeout(patience):
            return await work
    except TimeoutError:
        return "left"


EXPECTED = {"LoadReceipt", "UnloadReceipt", "int", "NoneType", "str", "Superseded", "LoadFailed", "CheckpointMissing"}


@settings(max_examples=depth(ci=100, nightly=1000), deadline=None)
@given(
    actions=st.lists(ACTIONS, max_size=25),
    loads=st.lists(LOADS, max_size=8),
    releases=st.lists(RELEASES, max_size=4),
    unload_after=st.sampled_from([None, 0.05, 60.0]),
)
def test_every_interleaving_answers_all_callers_and_finishes_all_jobs(
    actions: list[Action], loads: list[LoadScript], releases: list[ReleaseScript], unload_after: float | None
) -> None:
    async def body() -> None:
        harness = OwnerHarness(loads=tuple(loads), releases=tuple(releases), unload_after=unload_after)
        played = Interleaving(harness)
        await played.play(actions)
        assert set(await played.answers()) <= EXPECTED
        assert harness.finished_jobs >= played.lasting_jobs
        await asyncio.sleep(1000)
        lifecycle = harness.owner.lifecycle
        assert (lifecycle.running, lifecycle.queue, lifecycle.expected, lifecycle.loaders) == (
            None,
            (),
            frozenset(),
            (),
        )
        if unload_after is not None:
            assert harness.owner.lifecycle.state in (State.UNLOADED, State.FAILED)
            assert harness.processes.depth is Depth.COLD
            assert harness.processes.worker is None or harness.processes.worker.exited.done()
        await played.stop()

    run(body)


@settings(max_examples=depth(ci=70, nightly=700), deadline=None)
@given(
    actions=st.lists(ACTIONS, max_size=12),
    loads=st.lists(LOADS, max_size=4),
    releases=st.lists(RELEASES, max_size=4),
)
def test_stop_at_any_moment_answers_all_callers(
    actions: list[Action], loads: list[LoadScript], releases: list[ReleaseScript]
) -> None:
    async def body() -> None:
        harness = OwnerHarness(loads=tuple(loads), releases=tuple(releases), unload_after=60)
        played = Interleaving(harness)
        await played.play(actions)
        await played.stop()
        assert set(await played.answers()) <= EXPECTED | {"ShuttingDown"}
        assert (harness.processes.worker, harness.processes.depth) == (None, Depth.COLD)

    run(body)
