"""The dispatcher over a real store and spool: every accepted job ends once, whatever happens to its workers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.depth import depth
from testing.dispatcher_harness import FORCED, LOST, SECTIONS, Attempt, FaultyStore, Scene, playing
from whisper_inference.errors import AudioDamaged, CheckpointMissing, DiskFull
from whisper_inference.execution import LoadOutcome
from whisper_inference.jobs.events import Done, LoadFailed, SegmentHeard, TextHeard
from whisper_inference.jobs.job import Status, StoredAudio


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with playing(tmp_path) as scene:
        scene.begin()
        yield scene


@pytest.fixture(autouse=True)
def log() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


async def test_jobs_run_one_after_the_other_oldest_first_and_their_audio_goes(scene: Scene) -> None:
    names = [await scene.accept(f"job{number}-") for number in range(5)]
    for name in names:
        await scene.until_status(name, Status.SUCCEEDED)
        assert await scene.text(name) == f" {name}0 {name}1 {name}2"
        await scene.until_audio_is_gone(name)
    assert [name for name, _ in scene.executor.orders] == names
    assert (scene.figures.started, scene.figures.succeeded) == (5, 5)


async def test_listeners_hear_each_segment_and_section_and_one_end(scene: Scene) -> None:
    await scene.accept("a")
    await scene.until_status("a", Status.SUCCEEDED)
    assert len(scene.heard("a", SegmentHeard)) == SECTIONS
    assert len(scene.heard("a", TextHeard)) == SECTIONS
    assert scene.heard("a", Done) == [Done(Status.SUCCEEDED)]


async def test_a_lost_worker_costs_no_finished_section_and_tells_no_segment_twice(scene: Scene) -> None:
    await scene.accept("a", Attempt(1, LOST), Attempt(1, LOST))
    job = await scene.until_status("a", Status.SUCCEEDED)
    assert job.attempts == 3
    assert [resume.next_segment_id if resume else 0 for _, resume in scene.executor.orders] == [0, 1, 2]
    assert await scene.text("a") == " a0 a1 a2"
    segments = [event.segment.id for event in scene.events["a"] if isinstance(event, SegmentHeard)]
    assert segments == [0, 1, 2]


async def test_three_lost_workers_end_a_job_with_the_cause_and_the_next_runs(scene: Scene) -> None:
    await scene.accept("a", *[Attempt(0, LOST)] * 3)
    await scene.accept("b")
    job = await scene.until_status("a", Status.FAILED)
    assert job.error is not None
    assert job.error.code == "worker-lost"
    assert "SIGKILL" in str(job.error.error())
    assert scene.heard("a", Done) == [Done(Status.FAILED)]
    await scene.until_status("b", Status.SUCCEEDED)
    await scene.until_audio_is_gone("a")


async def test_a_forced_unload_does_not_count_as_an_attempt(scene: Scene) -> None:
    await scene.accept("a", *[Attempt(0, FORCED)] * 5)
    assert (await scene.until_status("a", Status.SUCCEEDED)).attempts == 1


async def test_what_is_wrong_with_the_audio_fails_the_job_at_once(scene: Scene) -> None:
    await scene.accept("a", Attempt(1, AudioDamaged(reason="cut off")))
    job = await scene.until_status("a", Status.FAILED)
    assert job.error is not None
    assert (job.error.code, job.attempts) == ("audio-damaged", 1)


async def test_a_cancelled_queued_job_never_runs(scene: Scene) -> None:
    scene.executor.open.clear()
    await scene.accept("a")
    await scene.accept("b")
    assert (await scene.dispatcher.cancel("a")).status is Status.CANCELLED
    scene.executor.open.set()
    await scene.until_status("b", Status.SUCCEEDED)
    assert [name for name, _ in scene.executor.orders] == ["b"]
    assert scene.heard("a", Done) == [Done(Status.CANCELLED)]
    await scene.until_audio_is_gone("a")


async def test_a_cancelled_running_job_frees_its_worker(scene: Scene) -> None:
    scene.executor.held.add("a")
    await scene.accept("a")
    await scene.accept("b")
    await scene.until_held("a")
    await scene.dispatcher.cancel("a")
    await scene.until_status("b", Status.SUCCEEDED)
    assert (await scene.store.get("a")).status is Status.CANCELLED
    assert scene.executor.kills == []
    assert (await scene.dispatcher.cancel("b")).status is Status.SUCCEEDED


async def test_a_worker_that_is_deaf_to_a_cancel_is_killed(scene: Scene) -> None:
    scene.executor.held.add("a")
    scene.executor.scripts["deaf"].append(Attempt())
    await scene.accept("a", Attempt(deaf=True))
    await scene.accept("b")
    await scene.until_held("a")
    await scene.dispatcher.cancel("a")
    await scene.until_status("b", Status.SUCCEEDED)
    assert scene.executor.kills == ["cancelled"]
    job = await scene.store.get("a")
    assert (job.status, scene.heard("a", Done)) == (Status.CANCELLED, [Done(Status.CANCELLED)])


async def test_a_failed_load_ends_waiting_clients_jobs_and_is_noted_on_the_others(scene: Scene) -> None:
    scene.executor.open.clear()
    await scene.accept("waiting", synchronous=True)
    await scene.accept("patient")
    scene.loads.put_nowait(LoadOutcome(CheckpointMissing(path="/nowhere", hint="mount it")))
    job = await scene.until_status("waiting", Status.FAILED)
    assert job.error is not None
    assert job.error.code == "checkpoint-missing"

    async def noted() -> bool:
        return (await scene.store.get("patient")).waiting_for is not None

    await scene.until(noted, "the cause stands on the job that waits")
    assert scene.heard("waiting", Done) == [Done(Status.FAILED)]
    assert scene.heard("patient", LoadFailed) == [LoadFailed()]
    await scene.until_audio_is_gone("waiting")
    scene.loads.put_nowait(LoadOutcome())

    async def cleared() -> bool:
        return (await scene.store.get("patient")).waiting_for is None

    await scene.until(cleared, "the cause is gone")
    scene.executor.open.set()
    await scene.until_status("patient", Status.SUCCEEDED)


async def test_a_load_that_succeeds_while_a_failure_is_written_has_the_last_word(scene: Scene) -> None:
    scene.executor.open.clear()
    await scene.accept("patient")
    scene.loads.put_nowait(LoadOutcome(CheckpointMissing(path="/nowhere", hint="mount it")))
    scene.loads.put_nowait(LoadOutcome())

    async def told() -> bool:
        return scene.heard("patient", LoadFailed) != []

    async def cleared() -> bool:
        return (await scene.store.get("patient")).waiting_for is None

    await scene.until(told, "the failure is written")
    await scene.until(cleared, "the cause is gone")


async def test_what_ended_unheard_of_waits_for_its_client(scene: Scene) -> None:
    scene.executor.open.clear()
    for name in ("heard", "unheard", "damaged", "cancelled"):
        attempts = [Attempt(1, AudioDamaged(reason="cut off"))] if name == "damaged" else []
        await scene.accept(name, *attempts, listen=name == "heard")
    await scene.dispatcher.cancel("cancelled")
    scene.executor.open.set()
    await scene.until_status("damaged", Status.FAILED)
    assert scene.uncollected.jobs == ["unheard", "damaged"]


async def test_the_loop_ends_when_the_executor_shuts_down_and_the_jobs_stay(scene: Scene) -> None:
    scene.executor.open.clear()
    await scene.accept("a")
    scene.executor.shutting_down = True
    scene.executor.open.set()
    assert scene.loop is not None
    await asyncio.wait_for(scene.loop, 10)
    assert (await scene.store.get("a")).status is Status.QUEUED


@pytest.mark.parametrize("fault", [OSError("I/O error"), DiskFull()], ids=["unforeseen", "disk full"])
async def test_a_failing_store_is_survived(scene: Scene, fault: Exception) -> None:
    FaultyStore.faults = {"counts": [fault]}
    await scene.accept("a")
    await scene.until_status("a", Status.SUCCEEDED)


async def test_what_fails_in_the_same_way_again_and_again_is_told_once(
    scene: Scene, log: list[MutableMapping[str, Any]]
) -> None:
    FaultyStore.faults = {"counts": [OSError("I/O error"), *[OSError("locked") for _ in range(3)]]}
    await scene.accept("a")
    await scene.until_status("a", Status.SUCCEEDED)
    assert [line["event"] for line in log if line["log_level"] == "error"] == ["jobs.dispatch_failed"] * 2


@pytest.mark.parametrize("method", ["append_section", "succeed"])
@pytest.mark.parametrize("fault", [OSError("I/O error"), DiskFull()], ids=["unforeseen", "disk full"])
async def test_a_job_whose_work_cannot_be_stored_is_not_left_running(
    scene: Scene, method: str, fault: Exception
) -> None:
    FaultyStore.faults = {method: [fault], "fail": [fault]}
    await scene.accept("a")
    await scene.accept("b")
    await scene.until_status("b", Status.SUCCEEDED)
    job = await scene.until_status("a", Status.SUCCEEDED)
    assert job.attempts == (1 if isinstance(fault, DiskFull) else 2)
    assert await scene.text("a") == " a0 a1 a2"
    assert await scene.text("b") == " b0 b1 b2"
    assert scene.executor.kills == ["stopped"]


async def test_audio_that_cannot_be_deleted_stays_its_jobs_until_retention_has_it_deleted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def fail(audio: StoredAudio) -> None:
        failed.set()
        raise OSError("I/O error")

    delete = scene.spool.delete
    monkeypatch.setattr(scene.spool, "delete", fail)
    await scene.accept("a")
    await scene.until_status("a", Status.SUCCEEDED)
    await failed.wait()
    [audio] = await scene.store.sweep(timedelta())
    await delete(audio)
    assert scene.spool.quota.used_bytes == 0


ENDS = st.sampled_from([None, None, LOST, FORCED, AudioDamaged(reason="cut off")])
ATTEMPTS = st.builds(Attempt, sections=st.integers(0, SECTIONS), end=ENDS)


@settings(max_examples=depth(ci=10, nightly=100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scripts=st.lists(st.lists(ATTEMPTS, max_size=4), min_size=1, max_size=5),
    cancels=st.dictionaries(st.integers(0, 4), st.integers(0, 12), max_size=3),
)
def test_every_accepted_job_ends_once_whatever_its_workers_do(
    scripts: list[list[Attempt]], cancels: dict[int, int]
) -> None:
    async def story(folder: Path) -> None:
        async with playing(folder) as scene:
            names = [await scene.accept(f"j{number}-", *script) for number, script in enumerate(scripts)]
            scene.begin()
            for number, turns in cancels.items():
                for _ in range(turns):
                    await asyncio.sleep(0.001)
                if number < len(names):
                    await scene.dispatcher.cancel(names[number])
            for name in names:
                job = await scene.until_status(name, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
                await asyncio.sleep(0)
                assert scene.heard(name, Done) == [Done(job.status)]
                await scene.until_audio_is_gone(name)
                if job.status is Status.SUCCEEDED:
                    ids = [segment.id for segment in await scene.store.segments(name)]
                    assert ids == sorted(set(ids))

            async def returned() -> bool:
                return scene.spool.quota.used_bytes == 0

            await scene.until(returned, "all bytes are back in the quota")

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder)))
