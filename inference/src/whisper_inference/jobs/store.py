"""The durable job store: each method is one transaction, and only the current attempt can write a job's result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import ColumnElement, Executable, delete, func, insert, literal, select, true, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from whisper_inference.errors import (
    IdempotencyConflict,
    JobCancelled,
    JobNotFound,
    ResultNotReady,
    ServiceError,
    StorageUnusable,
    WorkerLost,
)
from whisper_inference.jobs.database import transaction
from whisper_inference.jobs.job import (
    MAX_ATTEMPTS,
    Added,
    Cause,
    Existing,
    Job,
    Lease,
    Page,
    Recovered,
    Section,
    StaleAttempt,
    Status,
    StoredAudio,
    number_of,
)
from whisper_inference.jobs.schema import (
    Row,
    create_tables,
    job_of,
    jobs,
    row_of,
    sections,
    segments_from_json,
    segments_to_json,
    stored_cause,
)
from whisper_inference.transcripts.transcript import Resume, Segment, Transcript

SWEEP_BATCH = 500
"""Jobs deleted per transaction, so that a large sweep never blocks the database for long."""

_QUEUED = jobs.c.status == Status.QUEUED.value
_RUNNING = jobs.c.status == Status.RUNNING.value


@dataclass(frozen=True, slots=True)
class JobStore:
    """The durable queue and the results.

    clock: returns the time in UTC. new_token: returns a token never returned before. Every method may raise DiskFull;
    then nothing has changed. Methods that take a token raise StaleAttempt when it is not the job's current one.
    """

    engine: AsyncEngine
    clock: Callable[[], datetime]
    new_token: Callable[[], str]

    async def prepare(self) -> None:
        """Create the tables and indexes that are missing.

        Raises DataFolderTooNew when a later version has changed them, StorageUnusable for any other database.
        """
        try:
            async with transaction(self.engine) as connection:
                await create_tables(connection)
        except DBAPIError as error:
            place = self.engine.url.database or self.engine.url.get_backend_name()
            raise StorageUnusable(place=place, reason=str(error.orig)) from error

    async def add(self, job: Job) -> Added | Existing:
        """Store a new job, or return the one that its idempotency key brought before.

        Raises IdempotencyConflict when that one was another request (other options or other audio).
        A caller that is cancelled meanwhile cannot know whether the job was stored: shield this from a client's
        leaving, and never delete the audio then; an orphan is deleted at the next start.
        """
        while True:
            try:
                async with transaction(self.engine) as connection:
                    await connection.execute(insert(jobs).values(row_of(job)))
                return Added(job)
            except IntegrityError:
                existing = await self.repeated(job)
                # None: the key's job was swept in between; a duplicate of anything else is a bug.
                if existing is not None:
                    return existing
                if await self._find(jobs.c.id == job.id) is not None or job.idempotency_key is None:
                    raise

    async def has_key(self, principal: str, key: str) -> bool:
        """Return whether a principal has a job under an idempotency key."""
        return await self._find(_under(principal, key)) is not None

    async def lease(self) -> Lease | None:
        """Start an attempt at the oldest queued job; None when none is queued."""
        oldest = select(jobs.c.number).where(_QUEUED).order_by(jobs.c.number).limit(1).with_for_update(skip_locked=True)
        begin = (
            update(jobs)
            .where(jobs.c.number == oldest.scalar_subquery())
            .values(
                status=Status.RUNNING.value,
                attempts=jobs.c.attempts + 1,
                attempt_token=self.new_token(),
                started_at=func.coalesce(jobs.c.started_at, literal(self.clock(), jobs.c.started_at.type)),
                waiting_for=None,
            )
            .returning(*jobs.c)
        )
        async with transaction(self.engine) as connection:
            row = (await connection.execute(begin)).mappings().one_or_none()
            return None if row is None else await _lease_of(connection, cast("Row", row))

    async def append_section(self, token: str, section: Section) -> None:
        """Store a finished section; a later attempt starts after it."""
        change = {
            "next_start_sample": section.resume.next_start_sample,
            "language": section.resume.language,
            "previous_text": section.resume.previous_text,
            "progress": section.progress,
        }
        async with transaction(self.engine) as connection:
            job_id = await _change_attempt(connection, token, change)
            stored = select(func.count()).where(sections.c.job_id == job_id).scalar_subquery()
            fields = {"text": section.text, "segments": segments_to_json(section.segments)}
            row = {"job_id": job_id, "position": stored, "segment_count": len(section.segments), **fields}
            await connection.execute(insert(sections).values(row))

    async def set_progress(self, token: str, progress: float) -> None:
        """Store the attempt's progress, 0 to 1; the caller throttles, since each call is a disk write."""
        async with transaction(self.engine) as connection:
            await _change_attempt(connection, token, {"progress": progress})

    async def succeed(self, token: str, duration: float) -> None:
        """Commit the stored sections as the job's result; duration in seconds of audio."""
        await self._finish(token, Status.SUCCEEDED, {"progress": 1.0, "audio_seconds": duration})

    async def fail(self, token: str, error: ServiceError) -> None:
        """Fail the job with an error that another attempt would only repeat."""
        await self._finish(token, Status.FAILED, {"error": stored_cause(Cause.of(error))})

    async def retry(self, token: str, cause: str) -> Status:
        """Queue the job again after its executor was lost; the attempt counts.

        Returns the job's new status: after MAX_ATTEMPTS it has failed with WorkerLost, whose cause is given here.
        """
        async with transaction(self.engine) as connection:
            current = select(jobs.c.attempts).where(jobs.c.attempt_token == token)
            attempts = cast("int", await connection.scalar(current) or 0)
            again = attempts < MAX_ATTEMPTS
            change = _QUEUED_AGAIN if again else self._exhausted(cause, attempts)
            await _change_attempt(connection, token, change)
        return Status.QUEUED if again else Status.FAILED

    async def release(self, token: str) -> None:
        """Queue the job again without counting the attempt, keeping its sections: the job is not to blame."""
        async with transaction(self.engine) as connection:
            await _change_attempt(connection, token, {**_QUEUED_AGAIN, "attempts": jobs.c.attempts - 1})

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final, and return it; a final one is returned as it is. Raises JobNotFound."""
        change = {"status": Status.CANCELLED.value, "finished_at": self.clock(), "attempt_token": None}
        await self._change((jobs.c.id == job_id) & (_QUEUED | _RUNNING), **change, waiting_for=None)
        return await self.get(job_id)

    async def recover(self, cause: str) -> Recovered:
        """Queue the jobs that ran when the last server ended; those attempts count. Call once, before the first lease.

        Final jobs release their audio, for the caller to delete.
        """
        lost = _RUNNING & (jobs.c.attempts < MAX_ATTEMPTS)
        async with transaction(self.engine) as connection:
            # Clients that waited have lost their connection.
            await connection.execute(update(jobs).where(_QUEUED | _RUNNING).values(synchronous=False))
            requeue = update(jobs).where(lost).values(_QUEUED_AGAIN).returning(jobs.c.id)
            requeued = (await connection.scalars(requeue)).all()
            give_up = update(jobs).where(_RUNNING).values(self._exhausted(cause, MAX_ATTEMPTS)).returning(jobs.c.id)
            failed = (await connection.scalars(give_up)).all()
            # Failed just now, or final right before the server ended: the start deletes audio that no job owns.
            ended = jobs.c.finished_at.is_not(None) & jobs.c.audio_held
            await connection.execute(update(jobs).where(ended).values(audio_held=False))
        return Recovered(tuple(requeued), tuple(failed))

    async def fail_waiting_clients(self, error: ServiceError) -> tuple[str, ...]:
        """Fail the queued jobs whose clients wait for the answer; return their ids. The clients retry.

        Their idempotency keys are freed: they must not return the old failure once the cause is fixed.
        """
        ended = {"status": Status.FAILED.value, "finished_at": self.clock(), "error": stored_cause(Cause.of(error))}
        return await self._change(_QUEUED & jobs.c.synchronous, **ended, idempotency_key=None)

    async def detach_client(self, job_id: str) -> None:
        """Note that no client waits for the job's answer any more: it continues, also when a load fails."""
        await self._change(jobs.c.id == job_id, synchronous=False)

    async def note_waiting(self, cause: Cause | None) -> None:
        """Set on queued jobs why none is started, or None: they only wait for their turn.

        Only on those without a waiting client: `fail_waiting_clients` handles the others.
        """
        async with transaction(self.engine) as connection:
            # Not by _change: nobody needs the ids of what may be ten thousand jobs.
            held = _QUEUED & ~jobs.c.synchronous
            await connection.execute(update(jobs).where(held).values(waiting_for=stored_cause(cause)))

    async def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return a job of one owner, or (None) of anybody. Raises JobNotFound, also for another owner's job."""
        job = await self._find((jobs.c.id == job_id) & _owned_by(owner))
        if job is None:
            raise JobNotFound(job=job_id)
        return job

    async def page(
        self, *, owner: str | None = None, status: Status | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page:
        """Return jobs, newest first, after the cursor of an earlier page; new jobs never shift the others.

        owner: None for everybody's jobs. Raises JobNotFound for a cursor that no page returned.
        """
        wanted = select(jobs).where(_owned_by(owner)).order_by(jobs.c.number.desc()).limit(limit + 1)
        if status is not None:
            wanted = wanted.where(jobs.c.status == status.value)
        if cursor is not None:
            wanted = wanted.where(jobs.c.number < number_of(cursor))
        rows = await self._rows(wanted)
        following = str(rows[limit - 1]["number"]) if len(rows) > limit else None
        return Page(tuple(map(job_of, rows[:limit])), following)

    async def segments(self, job_id: str) -> tuple[Segment, ...]:
        """Return the segments stored so far, in order; empty for an unknown job."""
        heard: list[Segment] = []
        for row in await self._sections(job_id):
            heard.extend(segments_from_json(cast("str", row["segments"])))
            await asyncio.sleep(0)
        return tuple(heard)

    async def text(self, job_id: str) -> str:
        """Return the text stored so far; empty for an unknown job."""
        texts = select(sections.c.text).where(sections.c.job_id == job_id)
        rows = await self._rows(texts.order_by(sections.c.position))
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
        segments = await self.segments(job_id)
        text = "".join(segment.text for segment in segments)
        return Transcript(text, job.language or job.options.language or "en", job.audio_seconds or 0.0, segments)

    async def counts(self) -> dict[Status, int]:
        """Return how many jobs there are of each status, zeros included."""
        rows = await self._rows(select(jobs.c.status, func.count().label("jobs")).group_by(jobs.c.status))
        return dict.fromkeys(Status, 0) | {Status(cast("str", row["status"])): cast("int", row["jobs"]) for row in rows}

    async def stored_audio(self) -> tuple[StoredAudio, ...]:
        """Return every object that a job owns; all others in the spool are orphans."""
        return tuple(map(_audio_of, await self._rows(select(jobs).where(jobs.c.audio_held))))

    async def final_audio(self, job_id: str) -> StoredAudio | None:
        """Return the audio that a final job still holds, for the caller to delete and then detach; None: there is none.

        If the server is killed between the deletion and `detach_audio`, the next start does the latter.
        """
        rows = await self._rows(select(jobs).where(_holds_final_audio(job_id)))
        return _audio_of(rows[0]) if rows else None

    async def detach_audio(self, job_id: str) -> None:
        """Note that a final job's audio was deleted."""
        await self._change(_holds_final_audio(job_id), audio_held=False)

    async def sweep(self, retention: timedelta) -> tuple[StoredAudio, ...]:
        """Delete the jobs that ended longer ago than the retention; return their audio, for the caller to delete."""
        swept: list[StoredAudio] = []
        while rows := await self._sweep_batch(self.clock() - retention):
            swept.extend(_audio_of(row) for row in rows if row["audio_held"])
        return tuple(swept)

    async def _sweep_batch(self, ended_by: datetime) -> Sequence[Row]:
        expired = select(jobs.c.number).where(jobs.c.finished_at <= ended_by).order_by(jobs.c.finished_at)
        chosen = expired.limit(SWEEP_BATCH).scalar_subquery()
        return await self._rows(delete(jobs).where(jobs.c.number.in_(chosen)).returning(*jobs.c))

    async def _finish(self, token: str, status: Status, values: dict[str, object]) -> None:
        ended = {"status": status.value, "finished_at": self.clock(), "attempt_token": None}
        async with transaction(self.engine) as connection:
            await _change_attempt(connection, token, ended | values)

    def _exhausted(self, cause: str, attempts: int) -> dict[str, object]:
        error = Cause.of(WorkerLost(cause=cause, attempts=attempts))
        ended = {"status": Status.FAILED.value, "finished_at": self.clock(), "attempt_token": None}
        return {**ended, "error": stored_cause(error)}

    async def repeated(self, job: Job) -> Existing | None:
        """Return the job that its idempotency key brought before; None: there is none. Raises IdempotencyConflict."""
        if job.idempotency_key is None:
            return None
        existing = await self._find(_under(job.principal, job.idempotency_key))
        if existing is None:
            return None
        if existing.fingerprint != job.fingerprint:
            raise IdempotencyConflict(key=job.idempotency_key, job=existing.id)
        if existing.synchronous and not job.synchronous:
            # From here on, somebody relies on the job, unless a load has just failed and freed the key.
            same = (jobs.c.id == existing.id) & (jobs.c.idempotency_key == job.idempotency_key)
            if not await self._change(same, synchronous=False):
                return None
            existing = replace(existing, synchronous=False)
        return Existing(existing)

    async def _change(self, which: ColumnElement[bool], **values: object) -> tuple[str, ...]:
        """Change jobs, and return their ids."""
        rows = await self._rows(update(jobs).where(which).values(values).returning(jobs.c.id))
        return tuple(cast("str", row["id"]) for row in rows)

    async def _find(self, which: ColumnElement[bool]) -> Job | None:
        rows = await self._rows(select(jobs).where(which))
        return job_of(rows[0]) if rows else None

    async def _sections(self, job_id: str) -> Sequence[Row]:
        return await self._rows(select(sections).where(sections.c.job_id == job_id).order_by(sections.c.position))

    async def _rows(self, statement: Executable) -> Sequence[Row]:
        """Return the rows, also of a change; a client that hangs up meanwhile must not break the connection."""
        return await asyncio.shield(asyncio.ensure_future(self._fetched(statement)))

    async def _fetched(self, statement: Executable) -> Sequence[Row]:
        async with transaction(self.engine) as connection:
            return cast("Sequence[Row]", (await connection.execute(statement)).mappings().all())


_QUEUED_AGAIN: dict[str, object] = {"status": Status.QUEUED.value, "attempt_token": None}


async def _change_attempt(connection: AsyncConnection, token: str, values: Row) -> str:
    """Change the job of a current attempt, and return its id. Raises StaleAttempt."""
    change = update(jobs).where(jobs.c.attempt_token == token).values(dict(values)).returning(jobs.c.id)
    job_id = await connection.scalar(change)
    if job_id is None:
        raise StaleAttempt(token)
    return cast("str", job_id)


async def _lease_of(connection: AsyncConnection, row: Row) -> Lease:
    job = job_of(row)
    stored = await connection.scalar(select(func.sum(sections.c.segment_count)).where(sections.c.job_id == job.id))
    resume = Resume(
        next_start_sample=cast("int", row["next_start_sample"]),
        language=job.language,
        previous_text=cast("str | None", row["previous_text"]),
        next_segment_id=stored or 0,
    )
    return Lease(job, cast("str", row["attempt_token"]), resume if resume.next_start_sample else None)


def _owned_by(owner: str | None) -> ColumnElement[bool]:
    return true() if owner is None else jobs.c.principal == owner


def _under(principal: str, key: str | None) -> ColumnElement[bool]:
    return (jobs.c.principal == principal) & (jobs.c.idempotency_key == key)


def _holds_final_audio(job_id: str) -> ColumnElement[bool]:
    return (jobs.c.id == job_id) & jobs.c.finished_at.is_not(None) & jobs.c.audio_held


def _audio_of(row: Row) -> StoredAudio:
    return StoredAudio(cast("str", row["audio_key"]), cast("int", row["audio_size"]))
