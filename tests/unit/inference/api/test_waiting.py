"""Clients that wait for their answer: which errors they get, and what becomes of one that leaves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from testing.jobs import Clock, job, leased
from whisper_inference.api.dependencies import Services
from whisper_inference.api.intake import Accepted
from whisper_inference.api.waiting import raise_load_failure, wait_for_answer
from whisper_inference.errors import JobCancelled, LoadFailed, ModelDoesNotFit, ServiceError
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.events import Event, ModelLoadFailed, StatusChanged
from whisper_inference.jobs.job import Cause, Job, Status
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.store import JobStore

JOB = job("a")
BROKEN = Cause.of(LoadFailed(cause="no GPU"))


async def handle(waits: Job, event: Event) -> None:
    async def get(_id: str) -> Job:
        return waits

    facts = SimpleNamespace(retry_after=7.0)
    services = cast("Services", SimpleNamespace(jobs=SimpleNamespace(get=get)))
    queue = SimpleNamespace(model=SimpleNamespace(facts=lambda: facts))
    await raise_load_failure(services, cast("Accepted", SimpleNamespace(job=waits, queue=queue)), event)


async def test_failed_load_raises_its_cause_with_retry_after() -> None:
    with pytest.raises(LoadFailed) as failed:
        await handle(replace(JOB, waiting_for=BROKEN), ModelLoadFailed())
    assert failed.value.retry_after == 7.0


@pytest.mark.parametrize(
    "waits",
    [
        pytest.param(JOB, id="queued behind others"),
        pytest.param(replace(JOB, status=Status.RUNNING), id="started meanwhile"),
        pytest.param(replace(JOB, status=Status.SUCCEEDED), id="ended meanwhile"),
    ],
)
async def test_outdated_load_failure_is_ignored(waits: Job) -> None:
    await handle(waits, ModelLoadFailed())


async def test_other_events_raise_nothing() -> None:
    await handle(replace(JOB, waiting_for=BROKEN), StatusChanged(Status.QUEUED))


async def test_permanent_failure_has_no_retry_after() -> None:
    with pytest.raises(ServiceError) as failed:
        await handle(
            replace(JOB, waiting_for=Cause.of(ModelDoesNotFit(needed_bytes=3000, available_bytes=10, where="memory"))),
            ModelLoadFailed(),
        )
    assert (failed.value.status, failed.value.retry_after) == (507, None)


async def test_client_that_left_before_its_answer_finds_the_job_again(tmp_path: Path) -> None:
    database, unused = open_database(sqlite_url(tmp_path)), cast("Any", None)
    store = JobStore(database, clock=Clock(), new_token=lambda: "token")
    await store.prepare()
    waits = replace(JOB, synchronous=True)
    await store.add(waits)
    await store.succeed((await leased(store)).token, 1.0)
    within = timedelta(minutes=1)
    service = JobService(
        store=store, spool=unused, hub=unused, unfetched=unused, dispatcher=unused, retry_window=within
    )
    gone = asyncio.get_running_loop().create_future()
    gone.set_result(None)
    queue = SimpleNamespace(limits=SimpleNamespace(max_wait=within))
    accepted = cast("Accepted", SimpleNamespace(job=waits, gone=gone, queue=queue, at=0.0))

    async def answer() -> str:
        return "text"

    services = cast("Services", SimpleNamespace(jobs=service))
    assert await store.rejoin(waits, within=within) is None, "its client waits"
    with suppress(JobCancelled):
        assert await wait_for_answer(unused, services, accepted, answer()) == "text"
    joined = await store.rejoin(waits, within=within)
    assert joined is not None
    assert joined.job.id == waits.id
    await database.close()
