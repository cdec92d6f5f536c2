"""What a stopping server waits for, and what it logs about the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from whisper_inference.errors import AudioDamaged, ResultNotReady, ServiceError
from whisper_inference.jobs.job import Status
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.service.shutdown import _has_work, log_unfinished_jobs


async def ends(waiting: asyncio.Task[None]) -> bool:
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    return bool(done)


async def test_drain_ends_at_once_without_finished_jobs() -> None:
    await asyncio.wait_for(UnfetchedResults().all_fetched(), 1)


async def test_drain_waits_until_each_result_is_fetched() -> None:
    unfetched = UnfetchedResults()
    unfetched.add("a")
    unfetched.add("b")
    waiting = asyncio.create_task(unfetched.all_fetched())
    assert not await ends(waiting)
    unfetched.discard("a")
    assert not await ends(waiting)
    unfetched.discard("b")
    assert await ends(waiting)


async def test_drain_gives_up_on_absent_clients() -> None:
    unfetched = UnfetchedResults(wait_seconds=0.02)
    unfetched.add("a")
    await asyncio.wait_for(unfetched.all_fetched(), 5)
    assert unfetched.jobs == []


async def test_drain_waits_only_briefly_once_the_client_has_seen_the_end() -> None:
    unfetched = UnfetchedResults(fetch_seconds=0.2)
    unfetched.add("a")
    waiting = asyncio.create_task(unfetched.all_fetched())
    assert not await ends(waiting)
    unfetched.note_seen("a")
    assert not await ends(waiting), "it may fetch the result now"
    await asyncio.wait_for(waiting, 5)


async def test_repeated_status_requests_do_not_prolong_the_wait() -> None:
    unfetched = UnfetchedResults(fetch_seconds=0.05)
    unfetched.add("a")
    async with asyncio.timeout(5):
        while unfetched.jobs:
            unfetched.note_seen("a")
            await asyncio.sleep(0.01)


async def test_expired_entries_are_forgotten() -> None:
    unfetched = UnfetchedResults(wait_seconds=0)
    for number in range(1000):
        unfetched.add(str(number))
    assert len(unfetched._until) == 1


async def test_reading_a_running_job_does_not_count_as_fetching_its_result() -> None:
    unfetched = UnfetchedResults()
    unfetched.note_seen("a")
    unfetched.discard("a")
    unfetched.add("a")
    assert unfetched.jobs == ["a"]


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        pytest.param(AudioDamaged(reason="cut off"), [], id="there is none, and it has heard why"),
        pytest.param(ResultNotReady(job="a", job_status="running"), ["a"], id="it ended only after that was said"),
    ],
)
async def test_failed_fetch_counts_only_if_no_result_can_follow(answer: ServiceError, left: list[str]) -> None:
    unfetched = UnfetchedResults()

    async def transcript(job_id: str) -> None:
        unfetched.add(job_id)
        raise answer

    jobs = SimpleNamespace(store=SimpleNamespace(transcript=transcript), unfetched=unfetched)
    with pytest.raises(type(answer)):
        await JobService.transcript(cast("JobService", jobs), "a")
    assert unfetched.jobs == left


async def test_drain_assumes_work_when_the_store_is_unreadable() -> None:
    async def counts() -> None:
        raise OSError("disk I/O error")

    jobs = SimpleNamespace(store=SimpleNamespace(counts=counts))
    with capture_logs() as log:
        assert await _has_work(cast("JobService", jobs))
    assert log == [{"event": "server.work_unknown", "log_level": "warning", "reason": "OSError: disk I/O error"}]


async def test_unreadable_store_is_logged_at_the_end() -> None:
    async def page(*, status: Status) -> None:
        raise OSError("disk I/O error")

    store, owner = SimpleNamespace(page=page), SimpleNamespace()
    with capture_logs() as log:
        await log_unfinished_jobs(cast("JobStore", store), owner=cast("LifecycleOwner", owner), data_dir=Path("/data"))
    assert [line["event"] for line in log] == ["server.jobs_left_unknown"]
