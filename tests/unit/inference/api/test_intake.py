"""What becomes of a request whose audio is there: stored as a new job, found as an old one, or refused after all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from testing.jobs import job
from whisper_inference.api.intake import _Admission, _store
from whisper_inference.errors import LoadFailed, ServiceError, ShuttingDown
from whisper_inference.jobs.job import Added, Existing, Job, SpooledAudio, Status
from whisper_inference.service.server import Server

JOB = replace(job("new", key="k"), synchronous=True)


class ServerStandIn(SimpleNamespace):
    """A server with its store and its spool, which notes what is done. existing: the job under the key."""

    def __init__(self, *, existing: Job | None) -> None:
        super().__init__(
            store=self, spool=self, dispatcher=self, probe=self, settings=SimpleNamespace(max_audio_seconds=60)
        )
        self.existing = existing
        self.failure: ServiceError | None = None
        self.done: list[str] = []

    async def repeated(self, _job: Job) -> Existing | None:
        return Existing(self.existing) if self.existing else None

    async def add(self, job: Job) -> Added | Existing:
        self.done.append(f"add {job.id}")
        return Existing(self.existing) if self.existing else Added(job)

    def local_path(self, _key: str) -> Path:
        return Path("/spool/new")

    async def facts(self, path: Path, **_limits: float) -> SimpleNamespace:
        self.done.append(f"probe {path}")
        return SimpleNamespace(seconds=11.0)

    async def delete(self, audio: SpooledAudio) -> None:
        self.done.append(f"delete {audio.key}")

    def wake(self) -> None:
        self.done.append("wake")

    def require_loadable(self) -> None:
        if self.failure is not None:
            raise self.failure


def refused() -> None:
    raise ShuttingDown


def nothing() -> None:
    return


async def stored(server: ServerStandIn, *, recheck: Callable[[], None], job: Job = JOB) -> Added | Existing:
    return await _store(cast("Server", server), job, _Admission(withdraw=nothing, recheck=recheck))


async def test_a_repeat_whose_job_has_gone_meanwhile_is_new_work_and_refused_as_such() -> None:
    server = ServerStandIn(existing=None)
    with pytest.raises(ShuttingDown):
        await stored(server, recheck=refused)
    assert server.done == ["delete audio/new"]


async def test_a_repeat_of_an_ended_job_is_refused_by_nothing() -> None:
    ended = replace(JOB, id="old", status=Status.SUCCEEDED)
    server = ServerStandIn(existing=ended)
    assert await stored(server, recheck=refused) == Existing(ended)
    assert server.done == ["delete audio/new"]


async def test_a_client_is_not_left_waiting_for_a_queued_job_whose_model_cannot_be_loaded() -> None:
    server = ServerStandIn(existing=replace(JOB, id="old", synchronous=False))
    server.failure = LoadFailed(reason="broken")
    with pytest.raises(LoadFailed):
        await stored(server, recheck=refused)
    assert server.done == ["delete audio/new"]


async def test_audio_whose_client_does_not_wait_is_probed_unless_its_job_is_there_already() -> None:
    server, patient = ServerStandIn(existing=None), replace(JOB, synchronous=False)
    assert await stored(server, recheck=nothing, job=patient) == Added(replace(patient, audio_seconds=11.0))
    assert server.done == ["probe /spool/new", "add new", "wake"]
    server = ServerStandIn(existing=patient)
    await stored(server, recheck=refused, job=patient)
    assert server.done == ["delete audio/new"]


async def test_new_work_is_stored_once_and_begun() -> None:
    server = ServerStandIn(existing=None)
    assert await stored(server, recheck=nothing) == Added(JOB)
    assert server.done == ["add new", "wake"]
