"""The durable job store: each change is one transaction, and only the current attempt can write a job's result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import ColumnElement, Connection, Update, delete, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from whisper_inference.errors import IdempotencyConflict, NotStartedInTime, ServiceError, StorageUnusable, WorkerLost
from whisper_inference.jobs.job import (
    BACKGROUND_DELAY,
    LEASE,
    MAX_ATTEMPTS,
    Added,
    Cause,
    Existing,
    Job,
    Lease,
    Recovered,
    Section,
    StaleAttempt,
    Status,
    StoredAudio,
)
from whisper_inference.jobs.quota import ABANDONED_AFTER, END_UPLOAD, abandoned
from whisper_inference.jobs.reader import JobReader, job_in
from whisper_inference.jobs.revisions import prepare_tables
from whisper_inference.jobs.schema import (
    FINAL_WITH_AUDIO,
    QUEUED,
    RUNNING,
    Row,
    database_time,
    job_of,
    jobs,
    naming,
    of_model,
    row_of,
    segments_to_json,
    stored_audio_of,
    stored_cause,
    uploads,
)
from whisper_inference.jobs.statements import (
    ADD_JOB,
    ADD_SECTION,
    CHANGE_ATTEMPT,
    COUNT_SEGMENTS,
    DETACH_AUDIO,
    JOB_UNDER_KEY,
    JOB_WITHOUT_CLIENT,
    LOST_BY_CLIENT,
    OVERDUE,
    REJOIN,
    UNCOUNT_ATTEMPT,
    begin_attempt,
)
from whisper_inference.transcripts.transcript import Resume
from whispermodel.durations import format_duration
from whispermodel.key import Key

SWEEP_BATCH = 500
"""Jobs deleted per transaction, so that a large sweep never blocks the database for long."""


@dataclass(frozen=True, slots=True)
class JobStore(JobReader):
    """The durable queue and the results.

    clock: returns the time in UTC. new_token: returns a token never returned before. owner: names this process among
    those that share the database, now and after its restart; "" if the data folder has one owner at a time.
    Every method may raise DiskFull; then nothing has changed. Methods that take a token raise StaleAttempt when it is
    not the job's current one.
    """

    clock: Callable[[], datetime]
    new_token: Callable[[], str]
    owner: str = ""

    async def prepare(self) -> None:
        """Create the tables, or upgrade those of an earlier release; a failed upgrade changes nothing.

        Raises DataFolderTooNew when a later release has changed them, StorageUnusable for any other database.
        """
        try:
            await prepare_tables(self.database)
        except DBAPIError as error:
            place = self.database.engine.url.database or self.database.engine.url.get_backend_name()
            raise StorageUnusable(place=place, reason=str(error.orig)) from error

    async def add(self, job: Job) -> Added | Existing:
        """Store a new job, or return the one that its idempotency key brought before.

        Raises IdempotencyConflict when that one was another request (other options or other audio).
        A caller that is cancelled meanwhile cannot know whether the job was stored: shield this from a client's
        leaving, and never delete the audio then; an orphan is deleted at the next start.
        """
        row = {**row_of(job), "accepted_by": self.owner}

        def store(connection: Connection) -> None:
            connection.execute(ADD_JOB, row)
            # The bytes are the job's from here on.
            connection.execute(END_UPLOAD, {"key": job.audio.key})

        while True:
            try:
                await self.database.transact(store)
                return Added(job)
            except IntegrityError:
                existing = await self.repeated(job)
                # None: the key's job was swept in between; a duplicate of anything else is a bug.
                if existing is not None:
                    return existing
                if await self.find(job.id) is not None or job.idempotency_key is None:
                    raise

    async def has_key(self, principal: str, key: str) -> bool:
        """Return whether a principal has a job under an idempotency key."""
        return bool(await self.database.look_up(JOB_UNDER_KEY, owned_by=principal, key=key))

    async def lease(self, model: Key) -> Lease | None:
        """Start an attempt at the queued job of a model that is due first; None when none is queued.

        The attempt is the owner's for LEASE, and for as long again after each `renew`.
        """
        attempt = {"attempt_token": self.new_token(), "owner": self.owner, "now": self.clock(), **naming(model)}

        def lease(connection: Connection) -> Lease | None:
            begun = connection.execute(begin_attempt(self.database.dialect), attempt)
            row = begun.mappings().one_or_none()
            return None if row is None else _lease_of(connection, cast("Row", row))

        return await self.database.transact(lease)

    async def renew(self, tokens: Collection[str]) -> frozenset[str]:
        """Renew the leases of attempts, and return the tokens that are still current; the other attempts are void."""
        if not tokens:
            return frozenset()
        renewal = update(jobs).where(jobs.c.attempt_token.in_(tokens)).values(leased_until=self._time(LEASE))
        rows = await self.database.fetch(renewal.returning(jobs.c.attempt_token), now=self.clock())
        return frozenset(cast("str", row["attempt_token"]) for row in rows)

    async def append_section(self, token: str, section: Section) -> None:
        """Store a finished section; a later attempt starts after it."""
        change = {
            "next_start_sample": section.resume.next_start_sample,
            "language": section.resume.language,
            "previous_text": section.resume.previous_text,
            "progress": section.progress,
        }
        fields = {"text": section.text, "segments": segments_to_json(section.segments)}
        row = {"segment_count": len(section.segments), **fields}

        def append(connection: Connection) -> None:
            job_id = _change_attempt(connection, token, change)
            connection.execute(ADD_SECTION, {"job_id": job_id, "job": job_id, **row})

        await self.database.transact(append)

    async def set_progress(self, token: str, progress: float) -> None:
        """Store the attempt's progress, 0 to 1; the caller throttles, since each call is a disk write."""
        await self._change_attempt(token, {"progress": progress})

    async def succeed(self, token: str, duration: float) -> None:
        """Commit the stored sections as the job's result; duration in seconds of audio."""
        result = {"progress": 1.0, "audio_seconds": duration}
        await self._change_attempt(token, self._ended(Status.SUCCEEDED) | result)

    async def fail(self, token: str, error: ServiceError) -> None:
        """Fail the job with an error that another attempt would only repeat."""
        await self._change_attempt(token, self._ended(Status.FAILED) | {"error": stored_cause(Cause.of(error))})

    async def retry(self, token: str, cause: str) -> Status:
        """Queue the job again after its executor was lost; the attempt counts.

        Returns the job's new status: after MAX_ATTEMPTS it has failed with WorkerLost, whose cause is given here.
        """

        def retry(connection: Connection) -> Status:
            current = select(jobs.c.attempts).where(jobs.c.attempt_token == token)
            attempts = cast("int", connection.scalar(current) or 0)
            again = attempts < MAX_ATTEMPTS
            _change_attempt(connection, token, _QUEUED_AGAIN if again else self._exhausted(cause, attempts))
            return Status.QUEUED if again else Status.FAILED

        return await self.database.transact(retry)

    async def release(self, token: str) -> None:
        """Queue the job again without counting the attempt, keeping its sections: the job is not to blame."""
        await self._change_attempt(token, _QUEUED_AGAIN, change=UNCOUNT_ATTEMPT)

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final, and return it; a final one is returned as it is. Raises JobNotFound."""
        change = self._ended(Status.CANCELLED) | {"waiting_for": None}
        await self._change((jobs.c.id == job_id) & (QUEUED | RUNNING), **change)
        return await self.get(job_id)

    async def recover(self, cause: str) -> Recovered:
        """Queue the jobs that this owner ran when it last ended; those attempts count.

        Call once, before its first lease and upload. Its final jobs release their audio, for the caller to delete, as
        do uploads that nobody continues.
        """

        def recover(connection: Connection) -> Recovered:
            # Clients that waited have lost their connection.
            waited = (QUEUED | RUNNING) & (jobs.c.accepted_by == self.owner)
            lost = {"synchronous": False, "client_gone_at": self.clock()}
            connection.execute(update(jobs).where(waited & jobs.c.synchronous).values(lost))
            recovered = self._requeue(connection, jobs.c.owner == self.owner, cause=cause)
            # Failed just now, or final right before the server ended: the start deletes audio that no job owns.
            ended = FINAL_WITH_AUDIO & (jobs.c.owner == self.owner)
            connection.execute(update(jobs).where(ended).values(audio_held=False))
            unused = delete(uploads).where(abandoned(self._time(-ABANDONED_AFTER), self.owner))
            connection.execute(unused, {"now": self.clock()})
            return recovered

        return await self.database.transact(recover)

    async def hand_back(self) -> None:
        """Queue the jobs that this owner ran when it last ended, without counting the attempts: they ran elsewhere.

        Call it before `recover`, by an owner whose executors are other processes and did not end with it.
        """
        uncounted = {**_QUEUED_AGAIN, "attempts": jobs.c.attempts - 1}
        running = update(jobs).where(RUNNING & (jobs.c.owner == self.owner))
        await self.database.execute(running.values(uncounted))

    async def take_over(self, cause: str) -> Recovered:
        """Queue the jobs whose leases other owners let run out; those attempts count.

        If the database's clock steps, living owners may lose attempts, which then resume elsewhere: the token still
        lets only one store its result. This owner's own leases never run out, since it knows itself that it runs them.
        """
        # A clock that stepped back would keep a dead owner's lease for as long as the step.
        forward = jobs.c.leased_until > self._time(LEASE)
        run_out = jobs.c.leased_until.is_(None) | (jobs.c.leased_until <= self._time(timedelta())) | forward
        foreign = run_out & (jobs.c.owner != self.owner)
        return await self.database.transact(lambda connection: self._requeue(connection, foreign, cause=cause))

    async def fail_waiting_clients(self, model: Key, error: ServiceError) -> tuple[str, ...]:
        """Fail a model's queued jobs whose clients wait for the answer; return their ids. The clients retry.

        Their idempotency keys are freed: they must not return the old failure once the cause is fixed.
        """
        ended = self._ended(Status.FAILED) | {"error": stored_cause(Cause.of(error)), "idempotency_key": None}
        change = update(jobs).where(QUEUED & of_model() & jobs.c.synchronous).values(ended).returning(jobs.c.id)
        return _ids_in(await self.database.fetch(change, **naming(model)))

    async def fail_overdue(self) -> tuple[Job, ...]:
        """Fail the queued jobs that should have started by now, each with what kept it; return those that failed."""
        failed: list[Job] = []
        for row in await self.database.fetch(OVERDUE, now=self.clock()):
            job = job_of(row)
            if await self._change((jobs.c.id == job.id) & QUEUED, **_overdue(job), **self._ended(Status.FAILED)):
                failed.append(job)
        return tuple(failed)

    async def detach_client(self, job_id: str) -> None:
        """Note that no client waits for the job's answer any more: it continues, also when a load fails."""
        await self._change(jobs.c.id == job_id, synchronous=False)

    async def note_client_gone(self, job_id: str) -> None:
        """Note that the client that waited has lost its connection: it may repeat its request."""
        await self._change(jobs.c.id == job_id, client_gone_at=self.clock())

    async def is_abandoned(self, job_id: str) -> bool:
        """Return whether a job has not ended and its client has not come back."""
        found = job_in(await self.database.look_up(JOB_WITHOUT_CLIENT, job=job_id))
        return found is not None and not found.status.final

    async def rejoin(self, job: Job, *, within: timedelta) -> Existing | None:
        """Return the latest job of the same request whose client lost its connection that recently; None: none.

        The request waits for that job from here on. A job that failed or was cancelled is not joined.
        """
        same = {"owned_by": job.principal, "request": job.fingerprint, "since": self.clock() - within}
        # Nearly always there is none, and looking costs less than a change.
        if not await self.database.look_up(LOST_BY_CLIENT, **same):
            return None
        back = {"client_gone_at": None, "synchronous": True, "accepted_by": self.owner}
        joined = job_in(await self.database.fetch(REJOIN, **same, **back))
        return Existing(joined) if joined else None

    async def note_waiting(self, model: Key, cause: Cause | None) -> None:
        """Set on a model's queued jobs why none is started, or None: they only wait for their turn.

        Only on those without a waiting client: `fail_waiting_clients` handles the others.
        """
        note = update(jobs).where(QUEUED & of_model() & ~jobs.c.synchronous).values(waiting_for=stored_cause(cause))
        await self.database.execute(note, **naming(model))

    async def detach_audio(self, job_id: str) -> None:
        """Note that a final job's audio was deleted."""
        await self.database.execute(DETACH_AUDIO, job=job_id)

    async def sweep(self, retention: timedelta) -> tuple[StoredAudio, ...]:
        """Delete the jobs that ended longer ago than the retention; return their audio, for the caller to delete.

        Jobs that were accepted before the clock stepped back become due as if they were accepted now.
        """
        await self._correct_due_times()
        swept: list[StoredAudio] = []
        while rows := await self._sweep_batch(self.clock() - retention):
            swept.extend(stored_audio_of(row) for row in rows if row["audio_held"])
        return tuple(swept)

    async def _correct_due_times(self) -> None:
        # No job is due later than this, unless it was accepted by a clock that was ahead: others would overtake it for
        # as long as the clock takes to get there.
        latest = self.clock() + BACKGROUND_DELAY
        late = update(jobs).where(QUEUED & (jobs.c.due_at > latest)).values(due_at=latest)
        await self.database.execute(late)

    async def _sweep_batch(self, ended_by: datetime) -> Sequence[Row]:
        expired = select(jobs.c.number).where(jobs.c.finished_at <= ended_by).order_by(jobs.c.finished_at)
        chosen = expired.limit(SWEEP_BATCH).scalar_subquery()
        return await self.database.fetch(delete(jobs).where(jobs.c.number.in_(chosen)).returning(*jobs.c))

    async def _change_attempt(self, token: str, values: Row, *, change: Update = CHANGE_ATTEMPT) -> None:
        await self.database.transact(lambda connection: _change_attempt(connection, token, values, change=change))

    def _ended(self, status: Status) -> dict[str, object]:
        # The owner deletes the audio, if need be at its next start.
        return {"status": status.value, "finished_at": self.clock(), "attempt_token": None, "owner": self.owner}

    def _requeue(self, connection: Connection, which: ColumnElement[bool], *, cause: str) -> Recovered:
        lost, exhausted = RUNNING & which, jobs.c.attempts >= MAX_ATTEMPTS
        again = update(jobs).where(lost & ~exhausted).values(_QUEUED_AGAIN)
        requeued = connection.scalars(again.returning(jobs.c.id), {"now": self.clock()}).all()
        give_up = update(jobs).where(lost & exhausted).values(self._exhausted(cause, MAX_ATTEMPTS))
        failed = connection.scalars(give_up.returning(jobs.c.id), {"now": self.clock()}).all()
        return Recovered(tuple(requeued), tuple(failed))

    def _time(self, after: timedelta) -> ColumnElement[datetime]:
        return database_time(self.database.dialect, after=after)

    def _exhausted(self, cause: str, attempts: int) -> dict[str, object]:
        error = Cause.of(WorkerLost(cause=cause, attempts=attempts))
        return self._ended(Status.FAILED) | {"error": stored_cause(error)}

    async def repeated(self, job: Job) -> Existing | None:
        """Return the job that its idempotency key brought before; None: there is none. Raises IdempotencyConflict."""
        if job.idempotency_key is None:
            return None
        under_key = await self.database.look_up(JOB_UNDER_KEY, owned_by=job.principal, key=job.idempotency_key)
        existing = job_in(under_key)
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
        return _ids_in(await self.database.fetch(update(jobs).where(which).values(values).returning(jobs.c.id)))


_QUEUED_AGAIN: dict[str, object] = {"status": Status.QUEUED.value, "attempt_token": None}


def _overdue(job: Job) -> dict[str, object]:
    assert job.start_by is not None
    limit = format_duration(job.start_by - job.created_at)
    cause = str(job.waiting_for.error()) if job.waiting_for else "Other jobs for this model were ahead of it."
    return {"error": stored_cause(Cause.of(NotStartedInTime(limit=limit, cause=cause))), "waiting_for": None}


def _ids_in(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(cast("str", row["id"]) for row in rows)


def _change_attempt(connection: Connection, token: str, values: Row, *, change: Update = CHANGE_ATTEMPT) -> str:
    """Change the job of a current attempt, and return its id. Raises StaleAttempt."""
    job_id = connection.scalar(change, {"token": token, **values})
    if job_id is None:
        raise StaleAttempt(token)
    return cast("str", job_id)


def _lease_of(connection: Connection, row: Row) -> Lease:
    job = job_of(row)
    stored = connection.scalar(COUNT_SEGMENTS, {"job": job.id})
    resume = Resume(
        next_start_sample=cast("int", row["next_start_sample"]),
        language=job.language,
        previous_text=cast("str | None", row["previous_text"]),
        next_segment_id=stored or 0,
    )
    return Lease(job, cast("str", row["attempt_token"]), resume if resume.next_start_sample else None)
