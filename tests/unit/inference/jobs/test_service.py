"""Which results still have to be fetched, and which job a retry joins."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from testing.jobs import job
from whisper_inference.errors import AudioDamaged, ResultNotReady, ServiceError
from whisper_inference.jobs.job import Existing
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults


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


async def test_retry_of_a_retry_joins_the_first_job_before_the_lost_connection_is_noted(store: JobStore) -> None:
    unused = cast("Any", None)
    jobs = JobService(store=store, spool=unused, hub=unused, unfetched=unused, dispatcher=unused)
    first, second, third = (replace(job(name), synchronous=True) for name in ("first", "second", "third"))
    await store.add(first)
    await store.note_client_gone(first.id)
    gone = asyncio.get_running_loop().create_future()

    async def rejoin() -> Existing:
        joined = await store.rejoin(second, within=timedelta(minutes=1))
        assert joined is not None
        return joined

    with jobs.waiting(second, gone) as request:
        await request.storing(rejoin())
        gone.set_result(None)
        await jobs.settle_lost_clients(third)
        joined = await store.rejoin(third, within=timedelta(minutes=1))
    assert joined is not None
    assert joined.job.id == first.id
