"""The owner of the lifecycle: its rules by name, in virtual time and over stand-in processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import cast

import pytest
import structlog

from testing.owner_harness import MISSING, Scene
from testing.processes_stand_in import LoadScript, ProcessesContract, ReleaseScript, StandInProcesses
from testing.virtual_time import run
from whisper_inference.errors import CheckpointMissing, LoadFailed, NotAudio, ShuttingDown, Superseded
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import Processes
from whisper_inference.model_control import Depth, LoadReceipt, State, UnloadReceipt


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def in_virtual_time(story: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def told() -> None:
            async with asyncio.timeout(100_000):
                await story()

        run(told)

    test.__name__ = story.__name__
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
    scene = Scene()
    receipts = await asyncio.gather(*(scene.owner.load("demand") for _ in range(20)), scene.job())
    assert scene.processes.started_loads == 1
    assert receipts[0] is receipts[19]


@in_virtual_time
async def test_an_unload_waits_for_the_running_job_and_the_queued_one_reloads() -> None:
    scene = Scene()
    await scene.owner.load("manual")
    jobs = [asyncio.create_task(scene.job(100)) for _ in range(2)]
    await asyncio.sleep(1)
    began = scene.loop.time()
    assert await scene.unload() is not None
    assert scene.loop.time() - began >= 99
    assert scene.state is State.LOADING
    assert await asyncio.gather(*jobs) == [1, 1]
    assert scene.processes.started_loads == 2


@in_virtual_time
async def test_a_forced_unload_takes_the_worker_from_the_job_which_then_starts_anew() -> None:
    scene = Scene()
    job = asyncio.create_task(scene.job(100))
    await asyncio.sleep(10)
    unloaded = await scene.unload(force=True)
    assert unloaded is not None
    assert scene.loop.time() < 20
    assert await job == 2


@in_virtual_time
async def test_an_unload_takes_back_a_load_whose_caller_is_told() -> None:
    for at in (0, 0.5, 2.05):  # starting, importing, loading
        scene = Scene(loads=(LoadScript(start=0.1),))
        loading = scene.load()
        await asyncio.sleep(at)
        await scene.unload()
        with pytest.raises(Superseded):
            await loading
        assert scene.state is State.UNLOADED
        assert scene.owner.failure is None
        assert (scene.processes.worker, scene.processes.depth) == (None, Depth.COLD)


@in_virtual_time
async def test_a_load_supersedes_an_unload_that_waits_for_a_job() -> None:
    scene = Scene()
    job = asyncio.create_task(scene.job(100))
    await asyncio.sleep(10)
    unloading = scene.unload()
    await asyncio.sleep(1)
    await scene.owner.load("manual")
    with pytest.raises(Superseded):
        await unloading
    assert await job == 1
    assert scene.state is State.LOADED


@in_virtual_time
async def test_idleness_ends_the_worker_and_as_long_again_later_the_zygote() -> None:
    scene = Scene(unload_after=60)
    await scene.job(100)
    ended = scene.loop.time()
    await asyncio.sleep(59)
    assert (scene.state, scene.owner.idle_seconds) == (State.LOADED, pytest.approx(59))
    await asyncio.sleep(2)
    assert (scene.state, scene.processes.worker, scene.processes.depth) == (State.UNLOADED, None, Depth.WARM)
    await asyncio.sleep(61)
    assert scene.processes.depth is Depth.COLD
    assert scene.owner.idle_seconds == pytest.approx(scene.loop.time() - ended)


@in_virtual_time
async def test_an_upload_loads_the_model_and_keeps_it_from_being_idle() -> None:
    scene = Scene(unload_after=60)
    async with scene.owner.expected_work():
        await asyncio.sleep(10)
        assert scene.state is State.LOADED
        await asyncio.sleep(1000)
        assert scene.state is State.LOADED
    await asyncio.sleep(61)
    assert scene.state is State.UNLOADED


@in_virtual_time
async def test_a_failed_load_tells_its_cause_and_a_waiting_job_gets_the_next_one() -> None:
    scene = Scene(loads=(LoadScript(failure=MISSING),) * 3)
    job = asyncio.create_task(scene.job())
    with pytest.raises(CheckpointMissing):
        await scene.owner.load("manual")
    assert scene.state is State.FAILED
    assert scene.owner.failure is MISSING
    assert scene.owner.retry_after > 0
    assert await job == 1
    assert scene.processes.started_loads == 4
    assert (scene.owner.failure, scene.owner.retry_after) == (None, 0)


@in_virtual_time
async def test_what_nobody_foresaw_in_a_load_is_a_failed_load() -> None:
    scene = Scene(loads=(LoadScript(failure=BrokenPipeError("gone")),))
    with pytest.raises(LoadFailed, match="BrokenPipeError: gone"):
        await scene.owner.load("manual")
    await scene.owner.load("manual")


@in_virtual_time
async def test_a_release_that_fails_is_answered_as_not_released_and_the_model_can_be_loaded_again() -> None:
    scene = Scene(releases=(ReleaseScript(failure=TimeoutError("not reaped")),))
    await scene.owner.load("manual")
    unloaded = await asyncio.wait_for(scene.unload(), 60)
    assert unloaded is not None
    assert not unloaded.fully_released
    await asyncio.wait_for(scene.owner.load("manual"), 60)


@in_virtual_time
async def test_callers_that_leave_change_nothing_for_the_others() -> None:
    scene = Scene()
    leaving, staying = scene.load(), scene.load()
    waiting = asyncio.create_task(scene.job())
    await asyncio.sleep(0.5)
    leaving.cancel()
    waiting.cancel()
    assert (await staying).device == "cpu"
    job = asyncio.create_task(scene.job(10))
    await asyncio.sleep(1)
    unloading = scene.unload()
    await asyncio.sleep(1)
    unloading.cancel()
    await job
    await asyncio.sleep(1)
    assert scene.state is State.UNLOADED


@in_virtual_time
async def test_a_dead_worker_is_told_and_the_job_gets_another() -> None:
    scene = Scene()
    job = asyncio.create_task(scene.job(100))
    await asyncio.sleep(10)
    assert scene.processes.worker is not None
    scene.processes.worker.die()
    assert await job == 2
    assert "crash" in scene.heard.told


@in_virtual_time
async def test_a_lost_zygote_makes_an_unloaded_model_cold() -> None:
    scene = Scene()
    await scene.owner.load("manual")
    await scene.unload(Depth.WARM)
    assert scene.owner.lifecycle.depth is Depth.WARM
    scene.processes.lose_zygote()
    await asyncio.sleep(0.1)
    assert scene.owner.lifecycle.depth is Depth.COLD


@in_virtual_time
async def test_stop_answers_everyone_and_leaves_no_process() -> None:
    for at in (0, 0.5, 2.05, 10, 50.02):  # starting, importing, loading, running, releasing
        scene = Scene(loads=(LoadScript(start=0.1),), unload_after=60)
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(waits)
            for waits in (scene.owner.load("manual"), scene.job(46), scene.job(46), scene.owner.load("manual"))
        ]
        await asyncio.sleep(at)
        tasks.append(asyncio.create_task(scene.owner.unload(Depth.COLD, reason="manual", force=False)))
        await asyncio.sleep(0)
        await scene.owner.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        expected = LoadReceipt | UnloadReceipt | int | None | ShuttingDown | Superseded
        assert all(isinstance(answer, expected) for answer in answers)
        assert (scene.processes.worker, scene.processes.depth) == (None, Depth.COLD)
        for refused in (scene.owner.load("manual"), scene.job(), scene.unload()):
            with pytest.raises(ShuttingDown):
                await refused


@in_virtual_time
async def test_work_begins_when_the_worker_is_granted_and_not_when_it_arrives() -> None:
    scene = Scene()
    assert scene.owner.work_began_seconds is None
    await scene.owner.load("manual")
    assert scene.owner.work_began_seconds is None
    jobs = [asyncio.create_task(scene.job(100)) for _ in range(2)]
    await asyncio.sleep(40)
    assert scene.owner.work_began_seconds == pytest.approx(40)
    await asyncio.gather(*jobs)
    assert scene.owner.work_began_seconds == pytest.approx(100)
    await asyncio.sleep(50)
    assert scene.owner.work_began_seconds == pytest.approx(150)


async def refused(owner: LifecycleOwner, *, after: float) -> None:
    with suppress(NotAudio):
        async with owner.expected_work():
            await asyncio.sleep(after)
            raise NotAudio(reason="it is a picture")


@in_virtual_time
async def test_uploads_that_come_to_nothing_never_keep_a_model_from_being_idle() -> None:
    scene = Scene(unload_after=60)
    await scene.owner.load("manual")
    for _ in range(40):
        await refused(scene.owner, after=0.5)
        await asyncio.sleep(1.5)
    assert scene.owner.idle_seconds > 60
    assert (scene.state, scene.processes.depth) == (State.UNLOADED, Depth.WARM)


@pytest.mark.parametrize("after", [0.5, 30], ids=["while it loads", "when it has loaded"])
@pytest.mark.parametrize("depth", Depth)
def test_a_model_that_an_upload_woke_for_nothing_is_as_it_was(depth: Depth, after: float) -> None:
    async def story() -> None:
        scene = Scene(loads=(LoadScript(),) * 2)
        await scene.owner.load("manual")
        await scene.unload(depth)
        idle_seconds = scene.owner.idle_seconds
        await refused(scene.owner, after=after)
        await asyncio.sleep(5)
        assert (scene.state, scene.processes.depth, scene.processes.worker) == (State.UNLOADED, depth, None)
        assert scene.owner.idle_seconds > idle_seconds + after

    run(story)


@in_virtual_time
async def test_an_upload_that_turns_out_to_be_a_known_job_is_no_work_either() -> None:
    scene = Scene()
    async with scene.owner.expected_work() as withdraw:
        await asyncio.sleep(30)
        assert scene.state is State.LOADED
        withdraw()
    await asyncio.sleep(5)
    assert scene.state is State.UNLOADED


@in_virtual_time
async def test_an_upload_that_became_a_job_leaves_the_model_to_it() -> None:
    scene = Scene()
    async with scene.owner.expected_work():
        await asyncio.sleep(30)
    await asyncio.sleep(5)
    await scene.job()
    assert scene.processes.started_loads == 1


@in_virtual_time
async def test_whoever_listens_hears_of_each_change_until_it_stops_listening() -> None:
    scene = Scene()
    with scene.owner.changes() as changed:
        for happening in (lambda: scene.owner.load("manual"), scene.job, scene.unload):
            changed.clear()
            await happening()
            assert changed.is_set()
    changed.clear()
    await scene.owner.load("manual")
    assert not changed.is_set()


@in_virtual_time
async def test_another_model_is_loaded_next_and_the_former_one_stays_until_it_is_unloaded() -> None:
    scene = Scene()
    await scene.job()
    scene.owner.change_model(replace(scene.processes.spec, size="base"))
    assert scene.owner.holds_former_model
    assert scene.state is State.LOADED
    await scene.unload()
    assert not scene.owner.holds_former_model
    await scene.job()
    assert not scene.owner.holds_former_model


@in_virtual_time
async def test_another_model_does_not_wait_for_the_former_ones_back_off() -> None:
    scene = Scene(loads=(LoadScript(failure=MISSING),) * 7)
    job = asyncio.create_task(scene.job())
    await asyncio.sleep(70)
    assert (scene.state, scene.owner.failure) == (State.FAILED, MISSING)
    scene.owner.change_model(replace(scene.processes.spec, size="base"))
    assert (scene.state, scene.owner.failure, scene.owner.retry_after) == (State.LOADING, None, 0)
    assert await job == 1


@in_virtual_time
async def test_the_last_load_and_unload_of_a_model_are_remembered_with_their_age() -> None:
    scene = Scene(loads=(LoadScript(), LoadScript(loading=100), LoadScript(failure=MISSING)))
    assert (scene.owner.last_load, scene.owner.last_unload) == (None, None)
    loaded = await scene.owner.load("schedule")
    await asyncio.sleep(10)
    assert scene.owner.last_load is not None
    assert (scene.owner.last_load.receipt, scene.owner.last_load.seconds_ago) == (loaded, pytest.approx(10))
    assert await scene.owner.load("manual") is loaded
    unloaded = await scene.unload(Depth.WARM)
    await asyncio.sleep(5)
    # None of these loads a model or releases one: the zygote alone, nothing at all, a load taken back, one that fails.
    for _ in range(2):
        await scene.unload(Depth.COLD)
    loading = scene.load()
    await asyncio.sleep(10)
    assert scene.processes.worker is not None
    await scene.unload()
    with pytest.raises(Superseded):
        await loading
    with pytest.raises(CheckpointMissing):
        await scene.owner.load("manual")
    last_load, last_unload = scene.owner.last_load, scene.owner.last_unload
    assert last_load is not None
    assert last_unload is not None
    assert (last_load.receipt, last_unload.receipt) == (loaded, unloaded)
    assert last_load.seconds_ago == pytest.approx(last_unload.seconds_ago + 10, abs=0.2)
