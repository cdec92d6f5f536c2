"""The owner of the lifecycle, in virtual time and over stand-in processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import cast

import pytest
import structlog

from testing.owner_harness import MISSING, OwnerHarness
from testing.processes_stand_in import LoadScript, ProcessesContract, ReleaseScript, StandInProcesses
from testing.virtual_time import run
from whisper_inference.errors import CheckpointMissing, LoadFailed, NotAudio, ShuttingDown, Superseded
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import Processes
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whispermodel.states import Depth, State


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def in_virtual_time(body: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def with_deadline() -> None:
            async with asyncio.timeout(100_000):
                await body()

        run(with_deadline)

    test.__name__ = body.__name__
    return test


class TestStandIn(ProcessesContract):
    """The stand-in keeps the contract of the real processes (tests/integration/server/test_processes.py)."""

    @pytest.fixture
    def processes(self, zygote_lost: asyncio.Event) -> Processes:
        loads = [LoadScript(imports=0.01, loading=0.01)] * 9
        return StandInProcesses(loads, on_zygote_lost=zygote_lost.set).as_processes()

    @pytest.fixture
    def broken(self) -> Processes:
        return StandInProcesses([LoadScript(imports=0, failure=MISSING)]).as_processes()

    def kill_worker(self, processes: Processes) -> None:
        worker = cast("StandInProcesses", processes).worker
        assert worker is not None
        worker.die()

    def kill_zygote(self, processes: Processes) -> None:
        cast("StandInProcesses", processes).lose_zygote()


@in_virtual_time
async def test_concurrent_first_requests_share_one_load() -> None:
    harness = OwnerHarness()
    receipts = await asyncio.gather(*(harness.owner.load("demand") for _ in range(20)), harness.job())
    assert harness.processes.started_loads == 1
    assert receipts[0] is receipts[19]


@in_virtual_time
async def test_unload_waits_for_the_running_job_and_the_queued_one_reloads() -> None:
    harness = OwnerHarness()
    await harness.owner.load("manual")
    jobs = [asyncio.create_task(harness.job(100)) for _ in range(2)]
    await asyncio.sleep(1)
    began = harness.loop.time()
    assert await harness.unload() is not None
    assert harness.loop.time() - began >= 99
    assert harness.state is State.LOADING
    assert await asyncio.gather(*jobs) == [1, 1]
    assert harness.processes.started_loads == 2


@in_virtual_time
async def test_forced_unload_interrupts_the_job_which_then_restarts() -> None:
    harness = OwnerHarness()
    job = asyncio.create_task(harness.job(100))
    await asyncio.sleep(10)
    unloaded = await harness.unload(force=True)
    assert unloaded is not None
    assert harness.loop.time() < 20
    assert await job == 2


@in_virtual_time
async def test_unload_cancels_a_load_and_answers_its_caller() -> None:
    for at in (0, 0.5, 2.05):  # starting, importing, loading
        harness = OwnerHarness(loads=(LoadScript(start=0.1),))
        loading = harness.load()
        await asyncio.sleep(at)
        await harness.unload()
        with pytest.raises(Superseded):
            await loading
        assert harness.state is State.UNLOADED
        assert harness.owner.failure is None
        assert (harness.processes.worker, harness.processes.depth) == (None, Depth.COLD)


@in_virtual_time
async def test_load_supersedes_an_unload_that_waits_for_a_job() -> None:
    harness = OwnerHarness()
    job = asyncio.create_task(harness.job(100))
    await asyncio.sleep(10)
    unloading = harness.unload()
    await asyncio.sleep(1)
    await harness.owner.load("manual")
    with pytest.raises(Superseded):
        await unloading
    assert await job == 1
    assert harness.state is State.LOADED


@in_virtual_time
async def test_idle_time_ends_the_worker_then_the_zygote() -> None:
    harness = OwnerHarness(unload_after=60)
    await harness.job(100)
    ended = harness.loop.time()
    await asyncio.sleep(59)
    assert (harness.state, harness.owner.idle_seconds) == (State.LOADED, pytest.approx(59))
    await asyncio.sleep(2)
    assert (harness.state, harness.processes.worker, harness.processes.depth) == (State.UNLOADED, None, Depth.WARM)
    await asyncio.sleep(61)
    assert harness.processes.depth is Depth.COLD
    assert harness.owner.idle_seconds == pytest.approx(harness.loop.time() - ended)


@in_virtual_time
async def test_upload_loads_the_model_and_counts_as_work() -> None:
    harness = OwnerHarness(unload_after=60)
    async with harness.owner.expected_work():
        await asyncio.sleep(10)
        assert harness.state is State.LOADED
        await asyncio.sleep(1000)
        assert harness.state is State.LOADED
    await asyncio.sleep(61)
    assert harness.state is State.UNLOADED


@in_virtual_time
async def test_failed_load_raises_its_cause_and_a_waiting_job_gets_the_next() -> None:
    harness = OwnerHarness(loads=(LoadScript(failure=MISSING),) * 3)
    job = asyncio.create_task(harness.job())
    with pytest.raises(CheckpointMissing):
        await harness.owner.load("manual")
    assert harness.state is State.FAILED
    assert harness.owner.failure is MISSING
    assert harness.owner.retry_after > 0
    assert await job == 1
    assert harness.processes.started_loads == 4
    assert (harness.owner.failure, harness.owner.retry_after) == (None, 0)


@in_virtual_time
async def test_unexpected_error_in_a_load_is_a_failed_load() -> None:
    harness = OwnerHarness(loads=(LoadScript(failure=BrokenPipeError("gone")),))
    with pytest.raises(LoadFailed, match="BrokenPipeError: gone"):
        await harness.owner.load("manual")
    await harness.owner.load("manual")


@in_virtual_time
async def test_failed_release_is_reported_and_the_model_can_be_reloaded() -> None:
    harness = OwnerHarness(releases=(ReleaseScript(failure=TimeoutError("not reaped")),))
    await harness.owner.load("manual")
    unloaded = await asyncio.wait_for(harness.unload(), 60)
    assert unloaded is not None
    assert not unloaded.fully_released
    await asyncio.wait_for(harness.owner.load("manual"), 60)


@in_virtual_time
async def test_cancelled_callers_do_not_affect_the_others() -> None:
    harness = OwnerHarness()
    leaving, staying = harness.load(), harness.load()
    waiting = asyncio.create_task(harness.job())
    await asyncio.sleep(0.5)
    leaving.cancel()
    waiting.cancel()
    assert (await staying).device == "cpu"
    job = asyncio.create_task(harness.job(10))
    await asyncio.sleep(1)
    unloading = harness.unload()
    await asyncio.sleep(1)
    unloading.cancel()
    await job
    await asyncio.sleep(1)
    assert harness.state is State.UNLOADED


@in_virtual_time
async def test_dead_worker_is_reported_and_replaced() -> None:
    harness = OwnerHarness()
    job = asyncio.create_task(harness.job(100))
    await asyncio.sleep(10)
    assert harness.processes.worker is not None
    harness.processes.worker.die()
    assert await job == 2
    assert "crash" in harness.observer.events


@in_virtual_time
async def test_lost_zygote_makes_an_unloaded_model_cold() -> None:
    harness = OwnerHarness()
    await harness.owner.load("manual")
    await harness.unload(Depth.WARM)
    assert harness.owner.lifecycle.depth is Depth.WARM
    harness.processes.lose_zygote()
    await asyncio.sleep(0.1)
    assert harness.owner.lifecycle.depth is Depth.COLD


@in_virtual_time
async def test_stop_answers_all_callers_and_leaves_no_process() -> None:
    for at in (0, 0.5, 2.05, 10, 50.02):  # starting, importing, loading, running, releasing
        harness = OwnerHarness(loads=(LoadScript(start=0.1),), unload_after=60)
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(waits)
            for waits in (harness.owner.load("manual"), harness.job(46), harness.job(46), harness.owner.load("manual"))
        ]
        await asyncio.sleep(at)
        tasks.append(asyncio.create_task(harness.owner.unload(Depth.COLD, reason="manual", force=False)))
        await asyncio.sleep(0)
        await harness.owner.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        expected = LoadReceipt | UnloadReceipt | int | None | ShuttingDown | Superseded
        assert all(isinstance(answer, expected) for answer in answers)
        assert (harness.processes.worker, harness.processes.depth) == (None, Depth.COLD)
        for refused in (harness.owner.load("manual"), harness.job(), harness.unload()):
            with pytest.raises(ShuttingDown):
                await refused


@in_virtual_time
async def test_work_starts_when_the_worker_is_granted() -> None:
    harness = OwnerHarness()
    assert harness.owner.work_began_seconds is None
    await harness.owner.load("manual")
    assert harness.owner.work_began_seconds is None
    jobs = [asyncio.create_task(harness.job(100)) for _ in range(2)]
    await asyncio.sleep(40)
    assert harness.owner.work_began_seconds == pytest.approx(40)
    await asyncio.gather(*jobs)
    assert harness.owner.work_began_seconds == pytest.approx(100)
    await asyncio.sleep(50)
    assert harness.owner.work_began_seconds == pytest.approx(150)


async def refused(owner: LifecycleOwner, *, after: float) -> None:
    with suppress(NotAudio):
        async with owner.expected_work():
            await asyncio.sleep(after)
            raise NotAudio(reason="it is a picture")


@in_virtual_time
async def test_failed_uploads_do_not_keep_the_model_loaded() -> None:
    harness = OwnerHarness(unload_after=60)
    await harness.owner.load("manual")
    for _ in range(40):
        await refused(harness.owner, after=0.5)
        await asyncio.sleep(1.5)
    assert harness.owner.idle_seconds > 60
    assert (harness.state, harness.processes.depth) == (State.UNLOADED, Depth.WARM)


@pytest.mark.parametrize("after", [0.5, 30], ids=["while it loads", "when it has loaded"])
@pytest.mark.parametrize("depth", Depth)
def test_failed_upload_restores_the_former_state(depth: Depth, after: float) -> None:
    async def body() -> None:
        harness = OwnerHarness(loads=(LoadScript(),) * 2)
        await harness.owner.load("manual")
        await harness.unload(depth)
        idle_seconds = harness.owner.idle_seconds
        await refused(harness.owner, after=after)
        await asyncio.sleep(5)
        assert (harness.state, harness.processes.depth, harness.processes.worker) == (State.UNLOADED, depth, None)
        assert harness.owner.idle_seconds > idle_seconds + after

    run(body)


@in_virtual_time
async def test_withdrawn_upload_is_not_work() -> None:
    harness = OwnerHarness()
    async with harness.owner.expected_work() as withdraw:
        await asyncio.sleep(30)
        assert harness.state is State.LOADED
        withdraw()
    await asyncio.sleep(5)
    assert harness.state is State.UNLOADED


@in_virtual_time
async def test_upload_that_became_a_job_keeps_the_model_loaded() -> None:
    harness = OwnerHarness()
    async with harness.owner.expected_work():
        await asyncio.sleep(30)
    await asyncio.sleep(5)
    await harness.job()
    assert harness.processes.started_loads == 1


@in_virtual_time
async def test_changes_are_signalled_until_the_listener_leaves() -> None:
    harness = OwnerHarness()
    with harness.owner.changes() as changed:
        for action in (lambda: harness.owner.load("manual"), harness.job, harness.unload):
            changed.clear()
            await action()
            assert changed.is_set()
    changed.clear()
    await harness.owner.load("manual")
    assert not changed.is_set()


@in_virtual_time
async def test_changed_model_is_loaded_after_the_former_is_unloaded() -> None:
    harness = OwnerHarness()
    await harness.job()
    harness.owner.change_model(replace(harness.processes.spec, size="base"))
    assert harness.owner.holds_former_model
    assert harness.state is State.LOADED
    await harness.unload()
    assert not harness.owner.holds_former_model
    await harness.job()
    assert not harness.owner.holds_former_model


@in_virtual_time
async def test_changed_model_ignores_the_former_back_off() -> None:
    harness = OwnerHarness(loads=(LoadScript(failure=MISSING),) * 7)
    job = asyncio.create_task(harness.job())
    await asyncio.sleep(70)
    assert (harness.state, harness.owner.failure) == (State.FAILED, MISSING)
    harness.owner.change_model(replace(harness.processes.spec, size="base"))
    assert (harness.state, harness.owner.failure, harness.owner.retry_after) == (State.LOADING, None, 0)
    assert await job == 1


@in_virtual_time
async def test_last_load_and_unload_are_kept_with_their_age() -> None:
    harness = OwnerHarness(loads=(LoadScript(), LoadScript(loading=100), LoadScript(failure=MISSING)))
    assert (harness.owner.last_load, harness.owner.last_unload) == (None, None)
    loaded = await harness.owner.load("schedule")
    await asyncio.sleep(10)
    assert harness.owner.last_load is not None
    assert (harness.owner.last_load.receipt, harness.owner.last_load.seconds_ago) == (loaded, pytest.approx(10))
    assert await harness.owner.load("manual") is loaded
    unloaded = await harness.unload(Depth.WARM)
    await asyncio.sleep(5)
    # None of these loads a model or releases one: the zygote alone, nothing at all, a load taken back, one that fails.
    for _ in range(2):
        await harness.unload(Depth.COLD)
    loading = harness.load()
    await asyncio.sleep(10)
    assert harness.processes.worker is not None
    await harness.unload()
    with pytest.raises(Superseded):
        await loading
    with pytest.raises(CheckpointMissing):
        await harness.owner.load("manual")
    last_load, last_unload = harness.owner.last_load, harness.owner.last_unload
    assert last_load is not None
    assert last_unload is not None
    assert (last_load.receipt, last_unload.receipt) == (loaded, unloaded)
    assert last_load.seconds_ago == pytest.approx(last_unload.seconds_ago + 10, abs=0.2)
