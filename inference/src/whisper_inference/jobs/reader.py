"""What is read of the stored jobs: single jobs, pages, transcripts and queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy import func, select, tuple_, union_all

from whisper_inference.errors import JobCancelled, JobNotFound, ResultNotReady
from whisper_inference.jobs.database import Database
from whisper_inference.jobs.job import Backlog, Job, Page, PendingJobs, Status, StoredAudio, number_of
from whisper_inference.jobs.schema import (
    QUEUED,
    Row,
    job_of,
    jobs,
    model_of,
    naming,
    of_model,
    queued,
    sections,
    segments_from_json,
    stored_audio_of,
    uploads,
)
from whisper_inference.jobs.statements import ANY_QUEUED, FINAL_AUDIO, JOB, NEXT_START_LIMIT, SECTIONS
from whisper_inference.transcripts.transcript import Segment, Transcript
from whispermodel.key import Key

_SHORT_SECONDS = 60.0
"""Transcripts of shorter audio are read on the event loop: waking another thread takes longer."""


@dataclass(frozen=True, slots=True)
class JobReader:
    """Reads the stored jobs."""

    database: Database

    async def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return a job of one owner, or (None) of anybody. Raises JobNotFound, also for another owner's job."""
        job = await self.find(job_id)
        if job is None or owner not in (None, job.principal):
            raise JobNotFound(job=job_id)
        return job

    async def find(self, job_id: str) -> Job | None:
        """Return a job of anybody; None: there is none."""
        return job_in(await self.database.look_up(JOB, job=job_id))

    async def page(
        self, *, owner: str | None = None, status: Status | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page:
        """Return jobs, newest first, after the cursor of an earlier page; new jobs never shift the others.

        owner: None for everybody's jobs. Raises JobNotFound for a cursor that no page returned.
        """
        wanted = select(jobs).order_by(jobs.c.number.desc()).limit(limit + 1)
        if owner is not None:
            wanted = wanted.where(jobs.c.principal == owner)
        if status is not None:
            wanted = wanted.where(jobs.c.status == status.value)
        if cursor is not None:
            wanted = wanted.where(jobs.c.number < number_of(cursor))
        rows = await self.database.fetch(wanted)
        following = str(rows[limit - 1]["number"]) if len(rows) > limit else None
        return Page(tuple(map(job_of, rows[:limit])), following)

    async def segments(self, job_id: str) -> tuple[Segment, ...]:
        """Return the segments stored so far, in order; empty for an unknown job."""
        return await _segments_in(await self.database.fetch(SECTIONS, job=job_id))

    async def text(self, job_id: str) -> str:
        """Return the text stored so far; empty for an unknown job."""
        texts = select(sections.c.text).where(sections.c.job_id == job_id)
        rows = await self.database.fetch(texts.order_by(sections.c.position))
        return "".join(cast("str", row["text"]) for row in rows)

    async def transcript(self, job_id: str) -> Transcript:
        """Return the result of a job that has succeeded.

        Raises JobNotFound, ResultNotReady, JobCancelled, or the error that the job failed with.
        """
        job = await self.get(job_id)
        if job.error is not None:
            raise job.error.error()
        if job.status is Status.CANCELLED:
            raise JobCancelled(job=job_id)
        if job.status is not Status.SUCCEEDED:
            raise ResultNotReady(job=job_id, job_status=job.status.value)
        read = self.database.look_up if (job.audio_seconds or 0.0) < _SHORT_SECONDS else self.database.fetch
        segments = await _segments_in(await read(SECTIONS, job=job_id))
        text = "".join(segment.text for segment in segments)
        return Transcript(text, job.language or job.options.language or "en", job.audio_seconds or 0.0, segments)

    async def pending(self) -> dict[Key, PendingJobs]:
        """Return the queued jobs of each model that has any."""
        totals = (func.count().label("jobs"), func.sum(jobs.c.audio_size).label("bytes"))
        oldest = func.min(jobs.c.created_at, type_=jobs.c.created_at.type).label("oldest")
        wanted = select(jobs.c.namespace, jobs.c.whispermodel, *totals, oldest).where(QUEUED)
        rows = await self.database.fetch(wanted.group_by(jobs.c.namespace, jobs.c.whispermodel))
        return {
            model_of(row): PendingJobs(
                cast("int", row["jobs"]), cast("int", row["bytes"]), cast("datetime", row["oldest"])
            )
            for row in rows
        }

    async def counts(self, model: Key | None = None) -> dict[Status, int]:
        """Return how many jobs of a model, or (None) of all models, there are of each status, zeros included."""
        counted = select(jobs.c.status, func.count().label("jobs")).group_by(jobs.c.status)
        if model is None:
            rows = await self.database.fetch(counted)
        else:
            rows = await self.database.fetch(counted.where(of_model()), **naming(model))
        return dict.fromkeys(Status, 0) | {Status(cast("str", row["status"])): cast("int", row["jobs"]) for row in rows}

    async def has_queued(self, model: Key) -> bool:
        """Return whether a model has queued jobs."""
        return bool(await self.database.look_up(ANY_QUEUED, **naming(model)))

    async def waiting_models(self) -> tuple[Key, ...]:
        """Return the models that have queued jobs, in alphabetical order."""
        names = jobs.c.namespace, jobs.c.whispermodel
        rows = await self.database.fetch(select(*names).where(QUEUED).distinct().order_by(*names))
        return tuple(model_of(row) for row in rows)

    async def ahead(self, job_id: str) -> Backlog | None:
        """Return the queued jobs of its model that are due before a job; None: it is not queued itself."""
        ahead = jobs.alias("ahead")
        same_model = (ahead.c.namespace == jobs.c.namespace) & (ahead.c.whispermodel == jobs.c.whispermodel)
        earlier = tuple_(ahead.c.due_at, ahead.c.number) < tuple_(jobs.c.due_at, jobs.c.number)
        before = queued(ahead) & same_model & earlier
        count = select(func.count()).select_from(ahead).where(before).scalar_subquery().label("jobs")
        audio = func.coalesce(func.sum(ahead.c.audio_seconds), 0.0)
        seconds = select(audio).select_from(ahead).where(before).scalar_subquery().label("seconds")
        rows = await self.database.fetch(select(count, seconds).where((jobs.c.id == job_id) & QUEUED))
        return Backlog(cast("int", rows[0]["jobs"]), cast("float", rows[0]["seconds"])) if rows else None

    async def queued_audio(self, model: Key) -> Backlog:
        """Return how much work a model's queue holds."""
        seconds = func.coalesce(func.sum(jobs.c.audio_seconds), 0.0).label("seconds")
        wanted = select(func.count().label("jobs"), seconds).where(QUEUED & of_model())
        [row] = await self.database.fetch(wanted, **naming(model))
        return Backlog(cast("int", row["jobs"]), cast("float", row["seconds"]))

    async def stored_audio(self) -> tuple[StoredAudio, ...]:
        """Return every object that a job owns."""
        return tuple(map(stored_audio_of, await self.database.fetch(select(jobs).where(jobs.c.audio_held))))

    async def known_audio(self) -> frozenset[str]:
        """Return the keys of all objects that a job or an upload in progress owns; the others are orphans."""
        held = select(jobs.c.audio_key).where(jobs.c.audio_held)
        rows = await self.database.fetch(union_all(held, select(uploads.c.audio_key)))
        return frozenset(cast("str", row["audio_key"]) for row in rows)

    async def next_start_limit(self) -> datetime | None:
        """Return when the next queued job fails if it has not started; None: no job has a limit."""
        rows = await self.database.look_up(NEXT_START_LIMIT)
        return cast("datetime", rows[0]["start_by"]) if rows else None

    async def final_audio(self, job_id: str) -> StoredAudio | None:
        """Return the audio that a final job still holds, for the caller to delete and then detach; None: there is none.

        If the server is killed between the deletion and `detach_audio`, the next start does the latter.
        """
        rows = await self.database.look_up(FINAL_AUDIO, job=job_id)
        return stored_audio_of(rows[0]) if rows else None


def job_in(rows: Sequence[Row]) -> Job | None:
    """Return the job of the only row; None: there is no row."""
    return job_of(rows[0]) if rows else None


async def _segments_in(rows: Sequence[Row]) -> tuple[Segment, ...]:
    heard: list[Segment] = []
    for row in rows:
        heard.extend(segments_from_json(cast("str", row["segments"])))
        # Hours of it at once would hold up the event loop.
        await asyncio.sleep(0)
    return tuple(heard)
