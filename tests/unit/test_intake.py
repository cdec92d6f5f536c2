"""What becomes of a request whose audio is there: stored as a new job, found as an old one, or refused after all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from whisper_inference.api.intake import _Admission, _store
from whisper_inference.errors import LoadFailed, ServiceError, ShuttingDown
from whisper_inference.jobs.model import Added, Existing, Job, SpooledAudio, Status
from whisper_inference.server import Server
from whisper_inference.transcript import Options

JOB = Job(
    id="new",
    options=Options(),
    filename="a.flac",
    audio=SpooledAudio(key="audio/new", size=1000, sha256="00"),
    principal="ana",
    created_at=datetime(2026, 11, 28, tzinfo=UTC),
    synchronous=True,
    idempotency_key="k",
)


class ServerStandIn(SimpleNamespace):
    """A server with its store and its spool, which notes what is done. existing: the job under the key."""

    def __init__(self, *, existing: Job | None) -> None:
        super().__init__(store=self, spool=self, dispatcher=self)
        self.existing = existing
        self.failure: ServiceError | None = None
        self.done: list[str] = []

    async def has_key(self, principal: str, key: str) -> bool:
        return self.existing is not None and (principal, key) == ("ana", "k")

    async def add(self, job: Job) -> Added | Existing:
        self.done.append(f"add {job.id}")
        return Existing(self.existing) if self.existing else Added(job)

    def local_path(self, _key: str) -> None:
        return None

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


async def stored(server: ServerStandIn, *, recheck: Callable[[], None]) -> Added | Existing:
    return await _store(cast("Server", server), JOB, _Admission(withdraw=nothing, recheck=recheck))


async def test_a_repeat_whose_job_has_gone_meanwhile_is_new_work_and_refused_as_such() -> None:
    server = ServerStandIn(existing=None)
    with pytest.raises(ShuttingDown):
        await stored(server, recheck=refused)
    assert server.done == ["delete audio/new"]


async def test_a_repeat_of_an_ended_job_is_refused_by_nothing() -> None:
    ended = replace(JOB, id="old", status=Status.SUCCEEDED)
    server = ServerStandIn(existing=ended)
    assert await stored(server, recheck=refused) == Existing(ended)
    assert server.done == ["add new", "delete audio/new"]


async def test_a_client_is_not_left_waiting_for_a_queued_job_whose_model_cannot_be_loaded() -> None:
    server = ServerStandIn(existing=replace(JOB, id="old", synchronous=False))
    server.failure = LoadFailed(reason="broken")
    with pytest.raises(LoadFailed):
        await stored(server, recheck=refused)
    assert server.done == ["add new", "delete audio/new"]


async def test_new_work_is_stored_once_and_begun() -> None:
    server = ServerStandIn(existing=None)
    assert await stored(server, recheck=nothing) == Added(JOB)
    assert server.done == ["add new", "wake"]
