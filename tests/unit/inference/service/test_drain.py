"""What a server that is told to stop waits for, and what it tells of the rest."""

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
from whisper_inference.jobs.uncollected import Uncollected
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.service.drain import _has_work, log_unfinished_jobs


async def ends(waiting: asyncio.Task[None]) -> bool:
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    return bool(done)


async def test_nothing_is_waited_for_when_nothing_has_ended() -> None:
    await asyncio.wait_for(Uncollected().all_collected(), 1)


async def test_every_job_is_waited_for_until_somebody_has_its_result() -> None:
    uncollected = Uncollected()
    uncollected.add("a")
    uncollected.add("b")
    waiting = asyncio.create_task(uncollected.all_collected())
    assert not await ends(waiting)
    uncollected.discard("a")
    assert not await ends(waiting)
    uncollected.discard("b")
    assert await ends(waiting)


async def test_a_client_who_never_comes_is_waited_for_no_longer_than_that() -> None:
    uncollected = Uncollected(patience_seconds=0.02)
    uncollected.add("a")
    await asyncio.wait_for(uncollected.all_collected(), 5)
    assert uncollected.jobs == []


async def test_a_client_who_knows_is_waited_for_only_as_long_as_a_fetch_takes() -> None:
    uncollected = Uncollected(fetch_seconds=0.2)
    uncollected.add("a")
    waiting = asyncio.create_task(uncollected.all_collected())
    assert not await ends(waiting)
    uncollected.note_seen("a")
    assert not await ends(waiting), "it may fetch the result now"
    await asyncio.wait_for(waiting, 5)


async def test_asking_again_and_again_gains_no_time() -> None:
    uncollected = Uncollected(fetch_seconds=0.05)
    uncollected.add("a")
    async with asyncio.timeout(5):
        while uncollected.jobs:
            uncollected.note_seen("a")
            await asyncio.sleep(0.01)


async def test_what_is_too_old_is_not_kept() -> None:
    uncollected = Uncollected(patience_seconds=0)
    for number in range(1000):
        uncollected.add(str(number))
    assert len(uncollected._until) == 1


async def test_a_job_that_was_read_while_it_ran_is_not_taken_for_read() -> None:
    uncollected = Uncollected()
    uncollected.note_seen("a")
    uncollected.discard("a")
    uncollected.add("a")
    assert uncollected.jobs == ["a"]


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        pytest.param(AudioDamaged(reason="cut off"), [], id="there is none, and it has heard why"),
        pytest.param(ResultNotReady(job="a", job_status="running"), ["a"], id="it ended only after that was said"),
    ],
)
async def test_a_client_who_is_told_that_there_is_no_result_is_waited_for_while_there_may_be_one(
    answer: ServiceError, left: list[str]
) -> None:
    uncollected = Uncollected()

    async def transcript(job_id: str) -> None:
        uncollected.add(job_id)
        raise answer

    jobs = SimpleNamespace(store=SimpleNamespace(transcript=transcript), uncollected=uncollected)
    with pytest.raises(type(answer)):
        await JobService.transcript(cast("JobService", jobs), "a")
    assert uncollected.jobs == left


async def test_a_drain_that_cannot_look_for_work_supposes_that_there_is_some() -> None:
    async def counts() -> None:
        raise OSError("disk I/O error")

    jobs = SimpleNamespace(store=SimpleNamespace(counts=counts))
    with capture_logs() as log:
        assert await _has_work(cast("JobService", jobs))
    assert log == [{"event": "server.work_unknown", "log_level": "warning", "reason": "OSError: disk I/O error"}]


async def test_jobs_that_cannot_be_read_at_the_end_are_told_to_be_unknown() -> None:
    async def page(*, status: Status) -> None:
        raise OSError("disk I/O error")

    store, owner = SimpleNamespace(page=page), SimpleNamespace()
    with capture_logs() as log:
        await log_unfinished_jobs(cast("JobStore", store), owner=cast("LifecycleOwner", owner), data_dir=Path("/data"))
    assert [line["event"] for line in log] == ["server.jobs_left_unknown"]
