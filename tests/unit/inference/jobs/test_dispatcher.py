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
from testing.dispatcher_harness import (
    FORCED,
    LOST,
    NOW,
    SECTIONS,
    Attempt,
    DispatcherHarness,
    FaultyStore,
    running_dispatcher,
)
from whisper_inference.errors import AudioDamaged, CheckpointMissing, DatabaseUnavailable, DiskFull
from whisper_inference.jobs.events import Done, ModelLoadFailed, SegmentAdded, TextAdded
from whisper_inference.jobs.job import LOCAL, Status, StoredAudio
from whisper_inference.model_control import LoadOutcome


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[DispatcherHarness]:
    async with running_dispatcher(tmp_path) as harness:
        harness.begin()
        yield harness


@pytest.fixture(autouse=True)
def log() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


async def test_jobs_run_in_order_and_their_audio_is_deleted(harness: DispatcherHarness) -> None:
    names = [await harness.accept(f"job{number}-") for number in range(5)]
    for name in names:
        await harness.until_status(name, Status.SUCCEEDED)
        assert await harness.text(name) == f" {name}0 {name}1 {name}2"
        await harness.until_audio_is_gone(name)
    assert [name for name, _ in harness.executor.orders] == names
    assert (harness.metrics.started, harness.metrics.succeeded) == (5, 5)


async def test_subscribers_receive_all_events_and_one_end(harness: DispatcherHarness) -> None:
    await harness.accept("a")
    await harness.until_status("a", Status.SUCCEEDED)
    assert len(harness.received("a", SegmentAdded)) == SECTIONS
    assert len(harness.received("a", TextAdded)) == SECTIONS
    assert harness.received("a", Done) == [Done(Status.SUCCEEDED)]


async def test_lost_worker_keeps_finished_sections(harness: DispatcherHarness) -> None:
    await harness.accept("a", Attempt(1, LOST), Attempt(1, LOST))
    job = await harness.until_status("a", Status.SUCCEEDED)
    assert job.attempts == 3
    assert [resume.next_segment_id if resume else 0 for _, resume in harness.executor.orders] == [0, 1, 2]
    assert await harness.text("a") == " a0 a1 a2"
    segments = [event.segment.id for event in harness.events["a"] if isinstance(event, SegmentAdded)]
    assert segments == [0, 1, 2]


async def test_job_fails_after_three_lost_workers(harness: DispatcherHarness) -> None:
    await harness.accept("a", *[Attempt(0, LOST)] * 3)
    await harness.accept("b")
    job = await harness.until_status("a", Status.FAILED)
    assert job.error is not None
    assert job.error.code == "worker-lost"
    assert "SIGKILL" in str(job.error.error())
    assert harness.received("a", Done) == [Done(Status.FAILED)]
    await harness.until_status("b", Status.SUCCEEDED)
    await harness.until_audio_is_gone("a")


async def test_forced_unload_does_not_count_as_an_attempt(harness: DispatcherHarness) -> None:
    await harness.accept("a", *[Attempt(0, FORCED)] * 5)
    assert (await harness.until_status("a", Status.SUCCEEDED)).attempts == 1


async def test_damaged_audio_fails_the_job_without_retry(harness: DispatcherHarness) -> None:
    await harness.accept("a", Attempt(1, AudioDamaged(reason="cut off")))
    job = await harness.until_status("a", Status.FAILED)
    assert job.error is not None
    assert (job.error.code, job.attempts) == ("audio-damaged", 1)


async def test_cancelled_queued_job_never_runs(harness: DispatcherHarness) -> None:
    harness.executor.open.clear()
    await harness.accept("a")
    await harness.accept("b")
    assert (await harness.dispatcher.cancel("a")).status is Status.CANCELLED
    harness.executor.open.set()
    await harness.until_status("b", Status.SUCCEEDED)
    assert [name for name, _ in harness.executor.orders] == ["b"]
    assert harness.received("a", Done) == [Done(Status.CANCELLED)]
    await harness.until_audio_is_gone("a")


async def test_cancelled_running_job_frees_its_worker(harness: DispatcherHarness) -> None:
    harness.executor.held.add("a")
    await harness.accept("a")
    await harness.accept("b")
    await harness.until_held("a")
    await harness.dispatcher.cancel("a")
    await harness.until_status("b", Status.SUCCEEDED)
    assert (await harness.store.get("a")).status is Status.CANCELLED
    assert harness.executor.kills == []
    assert (await harness.dispatcher.cancel("b")).status is Status.SUCCEEDED


async def test_worker_that_ignores_a_cancel_is_killed(harness: DispatcherHarness) -> None:
    harness.executor.held.add("a")
    harness.executor.scripts["ignores_cancel"].append(Attempt())
    await harness.accept("a", Attempt(ignores_cancel=True))
    await harness.accept("b")
    await harness.until_held("a")
    await harness.dispatcher.cancel("a")
    await harness.until_status("b", Status.SUCCEEDED)
    assert harness.executor.kills == ["cancelled"]
    job = await harness.store.get("a")
    assert (job.status, harness.received("a", Done)) == (Status.CANCELLED, [Done(Status.CANCELLED)])


async def test_failed_load_fails_synchronous_jobs_and_marks_the_others(harness: DispatcherHarness) -> None:
    harness.executor.open.clear()
    await harness.accept("waiting", synchronous=True)
    await harness.accept("patient")
    harness.loads.put_nowait(LoadOutcome(LOCAL, CheckpointMissing(path="/nowhere", hint="mount it")))
    job = await harness.until_status("waiting", Status.FAILED)
    assert job.error is not None
    assert job.error.code == "checkpoint-missing"

    async def noted() -> bool:
        on_job = (await harness.store.get("patient")).waiting_for is not None
        return on_job and bool(harness.received("patient", ModelLoadFailed))

    await harness.until(noted, "the cause stands on the job that waits, and is published")
    assert harness.received("waiting", Done) == [Done(Status.FAILED)]
    assert harness.received("patient", ModelLoadFailed) == [ModelLoadFailed()]
    await harness.until_audio_is_gone("waiting")
    harness.loads.put_nowait(LoadOutcome(LOCAL))

    async def cleared() -> bool:
        return (await harness.store.get("patient")).waiting_for is None

    await harness.until(cleared, "the cause is gone")
    harness.executor.open.set()
    await harness.until_status("patient", Status.SUCCEEDED)


async def test_job_that_does_not_start_in_time_fails_and_its_audio_goes(harness: DispatcherHarness) -> None:
    harness.executor.open.clear()
    await harness.accept("hurried", start_by=NOW)
    harness.dispatcher.note_start_limit()
    await harness.accept("patient")
    job = await harness.until_status("hurried", Status.FAILED)
    assert job.error is not None
    assert job.error.code == "not-started-in-time"
    await harness.until_audio_is_gone("hurried")
    assert harness.received("hurried", Done) == [Done(Status.FAILED)]
    harness.executor.open.set()
    await harness.until_status("patient", Status.SUCCEEDED)


async def test_later_load_outcome_wins(harness: DispatcherHarness) -> None:
    harness.executor.open.clear()
    await harness.accept("patient")
    harness.loads.put_nowait(LoadOutcome(LOCAL, CheckpointMissing(path="/nowhere", hint="mount it")))
    harness.loads.put_nowait(LoadOutcome(LOCAL))

    async def reported() -> bool:
        return harness.received("patient", ModelLoadFailed) != []

    async def cleared() -> bool:
        return (await harness.store.get("patient")).waiting_for is None

    await harness.until(reported, "the failure is written")
    await harness.until(cleared, "the cause is gone")


async def test_finished_jobs_without_subscribers_are_unfetched(harness: DispatcherHarness) -> None:
    harness.executor.open.clear()
    for name in ("heard", "unheard", "damaged", "cancelled"):
        attempts = [Attempt(1, AudioDamaged(reason="cut off"))] if name == "damaged" else []
        await harness.accept(name, *attempts, listen=name == "heard")
    await harness.dispatcher.cancel("cancelled")
    harness.executor.open.set()
    await harness.until_status("damaged", Status.FAILED)
    assert harness.unfetched.jobs == ["unheard", "damaged"]


async def test_loop_ends_when_the_executor_shuts_down(harness: DispatcherHarness) -> None:
    harness.executor.open.clear()
    await harness.accept("a")
    harness.executor.shutting_down = True
    harness.executor.open.set()
    assert harness.loop is not None
    await asyncio.wait_for(harness.loop, 10)
    assert (await harness.store.get("a")).status is Status.QUEUED


@pytest.mark.parametrize("fault", [OSError("I/O error"), DiskFull()], ids=["unforeseen", "disk full"])
async def test_dispatcher_survives_a_failing_store(harness: DispatcherHarness, fault: Exception) -> None:
    FaultyStore.faults = {"counts": [fault]}
    await harness.accept("a")
    await harness.until_status("a", Status.SUCCEEDED)


async def test_repeated_failure_is_logged_once(harness: DispatcherHarness, log: list[MutableMapping[str, Any]]) -> None:
    FaultyStore.faults = {"has_queued": [OSError("I/O error"), *[OSError("locked") for _ in range(3)]]}
    await harness.accept("a")
    await harness.until_status("a", Status.SUCCEEDED)
    assert [line["event"] for line in log if line["log_level"] == "error"] == ["jobs.dispatch_failed"] * 2


@pytest.mark.parametrize("method", ["append_section", "succeed"])
@pytest.mark.parametrize(
    "fault",
    [OSError("I/O error"), DiskFull(), DatabaseUnavailable(reason="shutting down")],
    ids=["unforeseen", "disk full", "database away"],
)
async def test_job_is_requeued_when_its_result_cannot_be_stored(
    harness: DispatcherHarness, method: str, fault: Exception
) -> None:
    FaultyStore.faults = {method: [fault], "fail": [fault]}
    await harness.accept("a")
    await harness.accept("b")
    await harness.until_status("b", Status.SUCCEEDED)
    job = await harness.until_status("a", Status.SUCCEEDED)
    assert job.attempts == (2 if isinstance(fault, OSError) else 1)
    assert await harness.text("a") == " a0 a1 a2"
    assert await harness.text("b") == " b0 b1 b2"
    assert harness.executor.kills == ["stopped"]


async def test_undeleted_audio_stays_with_its_job_until_retention(
    harness: DispatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def fail(audio: StoredAudio) -> None:
        failed.set()
        raise OSError("I/O error")

    delete = harness.spool.delete
    monkeypatch.setattr(harness.spool, "delete", fail)
    await harness.accept("a")
    await harness.until_status("a", Status.SUCCEEDED)
    await failed.wait()
    [audio] = await harness.store.sweep(timedelta())
    await delete(audio)
    assert await harness.spool.quota.stored_bytes() == 0


ENDS = st.sampled_from([None, None, LOST, FORCED, AudioDamaged(reason="cut off")])
ATTEMPTS = st.builds(Attempt, sections=st.integers(0, SECTIONS), end=ENDS)


@settings(max_examples=depth(ci=10, nightly=100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scripts=st.lists(st.lists(ATTEMPTS, max_size=4), min_size=1, max_size=5),
    cancels=st.dictionaries(st.integers(0, 4), st.integers(0, 12), max_size=3),
)
def test_every_accepted_job_ends_exactly_once(scripts: list[list[Attempt]], cancels: dict[int, int]) -> None:
    async def body(folder: Path) -> None:
        async with running_dispatcher(folder) as harness:
            names = [await harness.accept(f"j{number}-", *script) for number, script in enumerate(scripts)]
            harness.begin()
            for number, turns in cancels.items():
                for _ in range(turns):
                    await asyncio.sleep(0.001)
                if number < len(names):
                    await harness.dispatcher.cancel(names[number])
            for name in names:
                job = await harness.until_status(name, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
                await asyncio.sleep(0)
                assert harness.received(name, Done) == [Done(job.status)]
                await harness.until_audio_is_gone(name)
                if job.status is Status.SUCCEEDED:
                    ids = [segment.id for segment in await harness.store.segments(name)]
                    assert ids == sorted(set(ids))

            async def returned() -> bool:
                return await harness.spool.quota.stored_bytes() == 0

            await harness.until(returned, "all bytes are back in the quota")

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(body(Path(folder)))
