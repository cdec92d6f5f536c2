"""Clients that wait for their answer get the error of a failed load, if it still affects their job."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from testing.jobs import job
from whisper_inference.api.dependencies import Services
from whisper_inference.api.intake import Accepted
from whisper_inference.api.waiting import raise_load_failure
from whisper_inference.errors import LoadFailed, ModelDoesNotFit, ServiceError
from whisper_inference.jobs.events import Event, ModelLoadFailed, StatusChanged
from whisper_inference.jobs.job import Cause, Job, Status

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
