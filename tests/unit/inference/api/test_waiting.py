"""Clients who wait for their answer hear of a load that fails, if it still keeps their job."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from testing.jobs import job
from whisper_inference.api.context import Services
from whisper_inference.api.waiting import raise_load_failure
from whisper_inference.errors import LoadFailed as LoadFailedError
from whisper_inference.errors import ModelDoesNotFit, ServiceError
from whisper_inference.jobs.events import Event, LoadFailed, StatusChanged
from whisper_inference.jobs.job import Cause, Job, Status

JOB = job("a")
BROKEN = Cause.of(LoadFailedError(cause="no GPU"))


async def told(waits: Job, event: Event) -> None:
    async def get(_id: str) -> Job:
        return waits

    facts = SimpleNamespace(retry_after=7.0)
    services = SimpleNamespace(jobs=SimpleNamespace(get=get), model=SimpleNamespace(facts=lambda: facts))
    await raise_load_failure(cast("Services", services), waits.id, event)


async def test_a_client_is_told_why_its_job_is_not_started_and_when_to_ask_again() -> None:
    with pytest.raises(LoadFailedError) as failed:
        await told(replace(JOB, waiting_for=BROKEN), LoadFailed())
    assert failed.value.retry_after == 7.0


@pytest.mark.parametrize(
    "waits",
    [
        pytest.param(JOB, id="queued behind others"),
        pytest.param(replace(JOB, status=Status.RUNNING), id="started meanwhile"),
        pytest.param(replace(JOB, status=Status.SUCCEEDED), id="ended meanwhile"),
    ],
)
async def test_a_failure_that_has_passed_is_not_told(waits: Job) -> None:
    await told(waits, LoadFailed())


async def test_other_events_are_no_failure() -> None:
    await told(replace(JOB, waiting_for=BROKEN), StatusChanged(Status.QUEUED))


async def test_what_will_not_pass_by_waiting_has_no_time() -> None:
    with pytest.raises(ServiceError) as failed:
        await told(
            replace(JOB, waiting_for=Cause.of(ModelDoesNotFit(needed_bytes=3000, available_bytes=10, where="memory"))),
            LoadFailed(),
        )
    assert (failed.value.status, failed.value.retry_after) == (507, None)
