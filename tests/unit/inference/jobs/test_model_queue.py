"""Uploaded audio is stored as a new job, matched to an earlier one, or refused after all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from testing.jobs import job
from whisper_inference.errors import LoadFailed, ServiceError, ShuttingDown
from whisper_inference.jobs.job import LOCAL, Added, Existing, Job, SpooledAudio, Status
from whisper_inference.jobs.limits import Limits
from whisper_inference.jobs.model_queue import ModelQueue
from whisper_inference.jobs.service import JobService
from whispermodel.key import Key

JOB = replace(job("new", key="k"), synchronous=True)


class PartsStandIn:
    """Store, spool, dispatcher, probe and model of a job service; records the calls. existing: the job of the key."""

    def __init__(self, *, existing: Job | None) -> None:
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

    async def probe(self, path: Path, **_limits: float) -> SimpleNamespace:
        self.done.append(f"probe {path}")
        return SimpleNamespace(seconds=11.0)

    async def delete(self, audio: SpooledAudio) -> None:
        self.done.append(f"delete {audio.key}")

    def wake(self, _model: Key) -> None:
        self.done.append("wake")

    def unavailable(self) -> ServiceError | None:
        return self.failure

    def queue(self) -> ModelQueue:
        """Return a model's queue over these parts."""
        parts, probe = cast("Any", self), cast("Any", SimpleNamespace(run=self.probe))
        limits = Limits(max_waiting=1, max_wait=timedelta(1), max_audio_bytes=1000, max_audio_seconds=60)
        jobs = JobService(store=parts, spool=parts, hub=parts, unfetched=parts, dispatcher=parts)
        return ModelQueue(key=LOCAL, model=parts, jobs=jobs, probe=probe, limits=limits, counts=parts)


def refused() -> None:
    raise ShuttingDown


def nothing() -> None:
    return


async def stored(parts: PartsStandIn, *, recheck: Callable[[], None], job: Job = JOB) -> Added | Existing:
    return await parts.queue().add(job, recheck=recheck)


async def test_repeat_of_a_vanished_job_is_refused_like_new_work() -> None:
    parts = PartsStandIn(existing=None)
    with pytest.raises(ShuttingDown):
        await stored(parts, recheck=refused)
    assert parts.done == ["delete audio/new"]


async def test_repeat_of_a_finished_job_is_always_answered() -> None:
    ended = replace(JOB, id="old", status=Status.SUCCEEDED)
    parts = PartsStandIn(existing=ended)
    assert await stored(parts, recheck=refused) == Existing(ended)
    assert parts.done == ["delete audio/new"]


async def test_synchronous_repeat_fails_when_the_model_cannot_be_loaded() -> None:
    parts = PartsStandIn(existing=replace(JOB, id="old", synchronous=False))
    parts.failure = LoadFailed(reason="broken")
    with pytest.raises(LoadFailed):
        await stored(parts, recheck=refused)
    assert parts.done == ["delete audio/new"]


async def test_asynchronous_audio_is_probed_unless_its_job_exists() -> None:
    parts, patient = PartsStandIn(existing=None), replace(JOB, synchronous=False)
    assert await stored(parts, recheck=nothing, job=patient) == Added(replace(patient, audio_seconds=11.0))
    assert parts.done == ["probe /spool/new", "add new", "wake"]
    parts = PartsStandIn(existing=patient)
    await stored(parts, recheck=refused, job=patient)
    assert parts.done == ["delete audio/new"]


async def test_new_job_is_stored_and_dispatched() -> None:
    parts = PartsStandIn(existing=None)
    assert await stored(parts, recheck=nothing) == Added(JOB)
    assert parts.done == ["add new", "wake"]
