"""Brings queued jobs to an executor and what comes back into the store: at-least-once work, exactly-once results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog

from whisper_inference.errors import DiskFull, ServiceError, ShuttingDown
from whisper_inference.execution import (
    Executor,
    ExecutorLost,
    Finished,
    Heard,
    LoadOutcome,
    LoadOutcomes,
    Progress,
    Run,
    RunEvent,
    SectionDone,
    Slot,
    Stopped,
)
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.events import Done, EventHub, ProgressMade, SegmentHeard, StatusChanged, TextHeard
from whisper_inference.jobs.job import Cause, Job, Lease, Section, StaleAttempt, Status
from whisper_inference.jobs.spool import Spool
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.uncollected import Uncollected

_PROGRESS_SECONDS = 2.0
"""Between two stored figures of progress: each is a disk write."""
_CANCEL_SECONDS = 10.0
"""What a worker may take to give up a cancelled job before it is killed: one window of 30 s of audio on a slow CPU."""
_RETRY_SECONDS = 5.0
"""Between two looks whether the store works again, or a full disk has room."""
_NOT_ITS_FAULT = frozenset({"forced", "stopped"})

log = structlog.stdlib.get_logger(__name__)


class Figures(Protocol):
    """What is counted of jobs."""

    def job_started(self, waited_seconds: float) -> None: ...
    def job_succeeded(self, *, seconds: float, audio_seconds: float) -> None: ...


@dataclass(slots=True)
class _Attempt:
    """A job that is running."""

    lease: Lease
    slot: Slot
    progress_stored_at: float = 0.0


class Dispatcher:
    """Runs one job at a time, oldest first; `run` is its loop."""

    def __init__(  # noqa: PLR0913 (its parts, and two delays that tests shorten)
        self,
        *,
        store: JobStore,
        spool: Spool,
        hub: EventHub,
        uncollected: Uncollected,
        executor: Executor,
        loads: LoadOutcomes,
        figures: Figures,
        max_audio_seconds: float,
        clock: Callable[[], datetime],
        cancel_seconds: float = _CANCEL_SECONDS,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._spool = spool
        self._hub = hub
        self._uncollected = uncollected
        self._executor = executor
        self._loads = loads
        self._figures = figures
        self._max_audio_seconds = max_audio_seconds
        self._clock = clock
        self._cancel_seconds = cancel_seconds
        self._retry_seconds = retry_seconds
        self._work = asyncio.Event()
        self._attempts: dict[str, _Attempt] = {}
        self._dropping = asyncio.Lock()
        self._resting = asyncio.Event()
        self._resting.set()
        self._acquiring: asyncio.Timeout | None = None
        self._background = BackgroundTasks("jobs.background_task_failed")
        self._noting = asyncio.Lock()

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return tuple(self._attempts)

    def wake(self) -> None:
        """Tell that a job was queued."""
        self._work.set()

    async def run(self) -> None:
        """Serve until the executor shuts down."""
        following = asyncio.create_task(self._follow_loads())
        try:
            await self._serve()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _serve(self) -> None:
        self._work.set()
        told = ""
        while True:
            # No deadline: without jobs there is nothing to do.
            await self._work.wait()
            self._work.clear()
            try:
                while (await self._store.counts())[Status.QUEUED]:
                    await self._serve_one()
                    told = ""
            except ShuttingDown:
                return
            except Exception as error:
                # Once: a disk may stay full for long.
                if repr(error) != told:
                    log.exception("jobs.dispatch_failed", retry_seconds=self._retry_seconds)
                told = repr(error)
                self._work.set()
                await asyncio.sleep(self._retry_seconds)

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final, running or not, and return it. Raises JobNotFound."""
        before = await self._store.get(job_id)
        job = await self._store.cancel(job_id)
        if before.status.final or job.status is not Status.CANCELLED:
            # Final before, or between the two looks.
            return job
        self._tell_done(job_id, job.status)
        if (attempt := self._attempts.get(job_id)) is not None:
            await attempt.slot.cancel(job_id)
            self._background.start(self._kill_if_deaf(attempt))
        else:
            await self._drop_audio(job_id)
            await self._stop_waiting_without_work()
        return job

    async def at_rest(self, timeout: float) -> None:
        """Wait until what came of every attempt is stored, at most that many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._resting.wait()

    async def _serve_one(self) -> None:
        # Without a deadline, but to be ended: waiting is demand, and keeps a failing load being tried.
        acquiring = asyncio.timeout(None)
        try:
            async with acquiring:
                self._acquiring = acquiring
                async with self._executor.slot() as slot:
                    self._acquiring = None
                    acquiring.reschedule(None)
                    lease = await self._attempt_next(slot)
            if lease is not None:
                # With the worker given back: neither an unload nor the server's end waits for it.
                await self._drop_audio(lease.job.id)
        except ExecutorLost as gone:
            log.warning("jobs.worker_gone_before_start", cause=gone.cause)
        except TimeoutError:
            if not acquiring.expired():
                raise
        finally:
            self._acquiring = None

    async def _stop_waiting_without_work(self) -> None:
        if not (await self._store.counts())[Status.QUEUED] and self._acquiring is not None:
            self._acquiring.reschedule(asyncio.get_running_loop().time())

    async def _attempt_next(self, slot: Slot) -> Lease | None:
        """Attempt the oldest queued job, if there still is one; return its lease."""
        # Before the lease is stored: whoever ends the server waits for what comes of it.
        self._resting.clear()
        try:
            lease = await self._store.lease()
            if lease is not None:
                await self._attempt(lease, slot)
            return lease
        finally:
            self._resting.set()

    async def _attempt(self, lease: Lease, slot: Slot) -> None:
        job = lease.job
        self._attempts[job.id] = attempt = _Attempt(lease=lease, slot=slot)
        if job.attempts == 1:
            self._figures.job_started((self._clock() - job.created_at).total_seconds())
        self._hub.publish(job.id, StatusChanged(Status.RUNNING))
        log.info("job.started", job=job.id, attempt=job.attempts, resumed=lease.resume is not None)
        try:
            await self._settle(attempt)
        except DiskFull:
            self._background.start(self._give_back_later(lease, ExecutorLost("stopped", "the disk is full")))
        except Exception as error:
            # The store failed: without this, the job would be running for ever.
            log.exception("job.attempt_failed", job=job.id)
            self._background.start(
                self._give_back_later(lease, ExecutorLost("store", f"{type(error).__name__}: {error}"))
            )
        finally:
            del self._attempts[job.id]

    async def _settle(self, attempt: _Attempt) -> None:
        """Run an attempt and store what came of it. Raises DiskFull, and whatever the store raises."""
        try:
            await self._transcribe(attempt)
        except StaleAttempt:
            log.info("job.attempt_void", job=attempt.lease.job.id)
        except ExecutorLost as gone:
            job = attempt.lease.job
            log.warning("job.worker_gone", job=job.id, attempt=job.attempts, cause=gone.cause, words=gone.words)
            await self._give_back(attempt.lease, gone)
        except DiskFull:
            raise
        except ServiceError as error:
            await self._fail(attempt.lease, error)

    async def _transcribe(self, attempt: _Attempt) -> None:
        lease = attempt.lease
        order = Run(
            job=lease.job.id,
            audio=lease.job.audio.key,
            options=lease.job.options,
            resume=lease.resume,
            max_audio_seconds=self._max_audio_seconds,
        )
        async with aclosing(attempt.slot.run(order)) as events:
            async for event in events:
                try:
                    await self._note(attempt, event)
                except StaleAttempt:
                    # Cancelled: the worker stays useful once it has let go of the job.
                    await attempt.slot.cancel(lease.job.id)
                except Exception:
                    # What it says next would be taken for the job's next attempt, which lacks what was not stored.
                    attempt.slot.kill("stopped", "what it said could not be stored")
                    raise

    async def _note(self, attempt: _Attempt, event: RunEvent) -> None:
        lease = attempt.lease
        match event:
            case Progress(seconds=seconds):
                await self._note_progress(attempt, seconds)
            case Heard(segment=segment):
                self._hub.publish(lease.job.id, SegmentHeard(segment))
            case SectionDone():
                progress = self._fraction(lease.job, event.seconds)
                section = Section(segments=event.segments, resume=event.resume, progress=progress)
                await self._store.append_section(lease.token, section)
                self._hub.publish(lease.job.id, TextHeard(section.text))
            case Finished(seconds=seconds):
                await self._succeed(attempt, seconds)
            case Stopped():
                pass

    async def _note_progress(self, attempt: _Attempt, seconds: float) -> None:
        progress = self._fraction(attempt.lease.job, seconds)
        self._hub.publish(attempt.lease.job.id, ProgressMade(progress))
        if time.monotonic() - attempt.progress_stored_at >= _PROGRESS_SECONDS:
            attempt.progress_stored_at = time.monotonic()
            await self._store.set_progress(attempt.lease.token, progress)

    def _fraction(self, job: Job, seconds: float) -> float:
        return min(1.0, round(seconds / job.audio_seconds, 4)) if job.audio_seconds else 0.0

    async def _succeed(self, attempt: _Attempt, audio_seconds: float) -> None:
        await self._store.succeed(attempt.lease.token, audio_seconds)
        job = attempt.lease.job
        seconds = (self._clock() - (job.started_at or job.created_at)).total_seconds()
        self._figures.job_succeeded(seconds=seconds, audio_seconds=audio_seconds)
        log.info("job.succeeded", job=job.id, seconds=round(seconds, 3), audio_seconds=audio_seconds)
        self._tell_done(job.id, Status.SUCCEEDED)

    async def _fail(self, lease: Lease, error: ServiceError) -> None:
        log.warning("job.failed", job=lease.job.id, code=error.code, detail=str(error))
        try:
            await self._store.fail(lease.token, error)
        except StaleAttempt:
            return
        self._tell_done(lease.job.id, Status.FAILED)

    async def _give_back(self, lease: Lease, gone: ExecutorLost) -> None:
        status = Status.QUEUED
        try:
            if gone.cause in _NOT_ITS_FAULT:
                await self._store.give_back(lease.token)
            else:
                status = await self._store.retry(lease.token, gone.words)
        except StaleAttempt:
            return
        if status.final:
            self._tell_done(lease.job.id, status)
        else:
            self._hub.publish(lease.job.id, StatusChanged(status))
        self._work.set()

    def _tell_done(self, job_id: str, status: Status) -> None:
        if status is not Status.CANCELLED:
            self._uncollected.add(job_id)
        if self._hub.publish(job_id, Done(status)):
            self._uncollected.note_seen(job_id)

    async def _give_back_later(self, lease: Lease, gone: ExecutorLost) -> None:
        """Queue a job again whose progress could not be stored; the disk may stay full for long."""
        log.error("job.not_stored", job=lease.job.id, retry_seconds=self._retry_seconds)
        while True:
            await asyncio.sleep(self._retry_seconds)
            try:
                return await self._give_back(lease, gone)
            except DiskFull:
                continue  # Told above.
            except Exception:
                log.exception("job.still_not_stored", job=lease.job.id)

    async def _follow_loads(self) -> None:
        while True:
            outcome = await self._loads.get()
            # In a task of its own, which the end of this loop does not cancel halfway.
            self._background.start(self._note_load(outcome))

    async def _note_load(self, outcome: LoadOutcome) -> None:
        # One after the other: the last outcome counts.
        async with self._noting:
            await (self._refuse_waiting(outcome.error) if outcome.error else self._store.note_waiting(None))

    async def _refuse_waiting(self, error: ServiceError) -> None:
        """Fail the jobs whose clients wait for the answer, and note the cause on the jobs that stay queued."""
        refused = await self._store.fail_waiting_clients(error)
        for job_id in refused:
            self._tell_done(job_id, Status.FAILED)
        await self._store.note_waiting(Cause.of(error))
        self._hub.publish_load_failed()
        await self._stop_waiting_without_work()
        for job_id in refused:
            await self._drop_audio(job_id)

    async def _kill_if_deaf(self, attempt: _Attempt) -> None:
        await asyncio.sleep(self._cancel_seconds)
        if self._attempts.get(attempt.lease.job.id) is attempt:
            attempt.slot.kill("cancelled", "did not give up a cancelled job")

    async def _drop_audio(self, job_id: str) -> None:
        """Delete the audio of a job that is final; what cannot be deleted stays its own, and retention tries again."""
        # One at a time: of two that delete the same object, both would give its bytes back.
        async with self._dropping:
            audio = await self._store.final_audio(job_id)
            if audio is not None:
                await self._spool.delete(audio)
                await self._store.detach_audio(job_id)
