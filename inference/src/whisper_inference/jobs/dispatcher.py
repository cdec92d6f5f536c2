"""Runs queued jobs on an executor and stores what comes back: at-least-once work, exactly-once results."""

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
    Progress,
    Run,
    RunEvent,
    SectionDone,
    SegmentDone,
    Slot,
    Stopped,
)
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.events import Done, EventHub, ProgressMade, SegmentAdded, StatusChanged, TextAdded
from whisper_inference.jobs.job import Cause, Job, Lease, Section, StaleAttempt, Status
from whisper_inference.jobs.spool import Spool
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.model_control import LoadOutcome, LoadOutcomes

_PROGRESS_SECONDS = 2.0
"""Between two stored values of progress: each is a disk write."""
_CANCEL_SECONDS = 10.0
"""How long a worker may take to stop a cancelled job before it is killed: one window of 30 s of audio on a slow CPU."""
_RETRY_SECONDS = 5.0
"""Between two attempts to use a failing store or a full disk."""
_UNCOUNTED_CAUSES = frozenset({"forced", "stopped"})

log = structlog.stdlib.get_logger(__name__)


class JobMetrics(Protocol):
    """Counts jobs."""

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
        unfetched: UnfetchedResults,
        executor: Executor,
        loads: LoadOutcomes,
        metrics: JobMetrics,
        max_audio_seconds: float,
        clock: Callable[[], datetime],
        cancel_seconds: float = _CANCEL_SECONDS,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._spool = spool
        self._hub = hub
        self._unfetched = unfetched
        self._executor = executor
        self._loads = loads
        self._metrics = metrics
        self._max_audio_seconds = max_audio_seconds
        self._clock = clock
        self._cancel_seconds = cancel_seconds
        self._retry_seconds = retry_seconds
        self._work = asyncio.Event()
        self._attempts: dict[str, _Attempt] = {}
        self._deleting = asyncio.Lock()
        self._settled = asyncio.Event()
        self._settled.set()
        self._acquiring: asyncio.Timeout | None = None
        self._background = BackgroundTasks("jobs.background_task_failed")
        self._note_lock = asyncio.Lock()

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return tuple(self._attempts)

    def wake(self) -> None:
        """Signal that a job was queued."""
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
        logged = ""
        while True:
            # No deadline: without jobs there is nothing to do.
            await self._work.wait()
            self._work.clear()
            try:
                while (await self._store.counts())[Status.QUEUED]:
                    await self._serve_one()
                    logged = ""
            except ShuttingDown:
                return
            except Exception as error:
                # Logged once: a disk may stay full for long.
                if repr(error) != logged:
                    log.exception("jobs.dispatch_failed", retry_seconds=self._retry_seconds)
                logged = repr(error)
                self._work.set()
                await asyncio.sleep(self._retry_seconds)

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final, running or not, and return it. Raises JobNotFound."""
        before = await self._store.get(job_id)
        job = await self._store.cancel(job_id)
        if before.status.final or job.status is not Status.CANCELLED:
            # It was final before, or ended between the two reads.
            return job
        self._publish_end(job_id, job.status)
        if (attempt := self._attempts.get(job_id)) is not None:
            await attempt.slot.cancel(job_id)
            self._background.start(self._kill_if_unresponsive(attempt))
        else:
            await self._delete_audio(job_id)
            await self._stop_acquiring_without_work()
        return job

    async def settled(self, timeout: float) -> None:
        """Wait until the outcome of every attempt is stored, at most that many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._settled.wait()

    async def _serve_one(self) -> None:
        # No deadline, but it can be ended: waiting counts as demand, and keeps a failing load being retried.
        acquiring = asyncio.timeout(None)
        try:
            async with acquiring:
                self._acquiring = acquiring
                async with self._executor.slot() as slot:
                    self._acquiring = None
                    acquiring.reschedule(None)
                    lease = await self._attempt_next(slot)
            if lease is not None:
                # After the slot is released: neither an unload nor the server's end waits for it.
                await self._delete_audio(lease.job.id)
        except ExecutorLost as lost:
            log.warning("jobs.worker_gone_before_start", cause=lost.cause)
        except TimeoutError:
            if not acquiring.expired():
                raise
        finally:
            self._acquiring = None

    async def _stop_acquiring_without_work(self) -> None:
        if not (await self._store.counts())[Status.QUEUED] and self._acquiring is not None:
            self._acquiring.reschedule(asyncio.get_running_loop().time())

    async def _attempt_next(self, slot: Slot) -> Lease | None:
        """Run the oldest queued job, if there still is one; return its lease."""
        # Before the lease is stored: the server's end waits for the outcome.
        self._settled.clear()
        try:
            lease = await self._store.lease()
            if lease is not None:
                await self._attempt(lease, slot)
            return lease
        finally:
            self._settled.set()

    async def _attempt(self, lease: Lease, slot: Slot) -> None:
        job = lease.job
        self._attempts[job.id] = attempt = _Attempt(lease=lease, slot=slot)
        if job.attempts == 1:
            self._metrics.job_started((self._clock() - job.created_at).total_seconds())
        self._hub.publish(job.id, StatusChanged(Status.RUNNING))
        log.info("job.started", job=job.id, attempt=job.attempts, resumed=lease.resume is not None)
        try:
            await self._run_attempt(attempt)
        except DiskFull:
            self._background.start(self._requeue_later(lease, ExecutorLost("stopped", "the disk is full")))
        except Exception as error:
            # The store failed: without this, the job would be running forever.
            log.exception("job.attempt_failed", job=job.id)
            self._background.start(
                self._requeue_later(lease, ExecutorLost("store", f"{type(error).__name__}: {error}"))
            )
        finally:
            del self._attempts[job.id]

    async def _run_attempt(self, attempt: _Attempt) -> None:
        """Run an attempt and store its outcome. Raises DiskFull, and whatever the store raises."""
        try:
            await self._transcribe(attempt)
        except StaleAttempt:
            log.info("job.attempt_void", job=attempt.lease.job.id)
        except ExecutorLost as lost:
            job = attempt.lease.job
            log.warning("job.worker_gone", job=job.id, attempt=job.attempts, cause=lost.cause, error=lost.detail)
            await self._requeue(attempt.lease, lost)
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
                    # Cancelled: the worker can take the next job once it has stopped this one.
                    await attempt.slot.cancel(lease.job.id)
                except Exception:
                    # Later sections must not be stored without this one.
                    attempt.slot.kill("stopped", "its result could not be stored")
                    raise

    async def _note(self, attempt: _Attempt, event: RunEvent) -> None:
        lease = attempt.lease
        match event:
            case Progress(seconds=seconds):
                await self._note_progress(attempt, seconds)
            case SegmentDone(segment=segment):
                self._hub.publish(lease.job.id, SegmentAdded(segment))
            case SectionDone():
                progress = self._fraction(lease.job, event.seconds)
                section = Section(segments=event.segments, resume=event.resume, progress=progress)
                await self._store.append_section(lease.token, section)
                self._hub.publish(lease.job.id, TextAdded(section.text))
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
        self._metrics.job_succeeded(seconds=seconds, audio_seconds=audio_seconds)
        log.info("job.succeeded", job=job.id, seconds=round(seconds, 3), audio_seconds=audio_seconds)
        self._publish_end(job.id, Status.SUCCEEDED)

    async def _fail(self, lease: Lease, error: ServiceError) -> None:
        log.warning("job.failed", job=lease.job.id, code=error.code, detail=str(error))
        try:
            await self._store.fail(lease.token, error)
        except StaleAttempt:
            return
        self._publish_end(lease.job.id, Status.FAILED)

    async def _requeue(self, lease: Lease, lost: ExecutorLost) -> None:
        status = Status.QUEUED
        try:
            if lost.cause in _UNCOUNTED_CAUSES:
                await self._store.release(lease.token)
            else:
                status = await self._store.retry(lease.token, lost.detail)
        except StaleAttempt:
            return
        if status.final:
            self._publish_end(lease.job.id, status)
        else:
            self._hub.publish(lease.job.id, StatusChanged(status))
        self._work.set()

    def _publish_end(self, job_id: str, status: Status) -> None:
        if status is not Status.CANCELLED:
            self._unfetched.add(job_id)
        if self._hub.publish(job_id, Done(status)):
            self._unfetched.note_seen(job_id)

    async def _requeue_later(self, lease: Lease, lost: ExecutorLost) -> None:
        """Queue a job again whose outcome could not be stored; retry, since the disk may stay full for long."""
        log.error("job.not_stored", job=lease.job.id, retry_seconds=self._retry_seconds)
        while True:
            await asyncio.sleep(self._retry_seconds)
            try:
                return await self._requeue(lease, lost)
            except DiskFull:
                continue  # Logged above.
            except Exception:
                log.exception("job.still_not_stored", job=lease.job.id)

    async def _follow_loads(self) -> None:
        while True:
            outcome = await self._loads.get()
            # In a task of its own, which the end of this loop does not cancel halfway.
            self._background.start(self._on_load_finished(outcome))

    async def _on_load_finished(self, outcome: LoadOutcome) -> None:
        # One at a time: the last outcome counts.
        async with self._note_lock:
            await (self._fail_waiting_clients(outcome.error) if outcome.error else self._store.note_waiting(None))

    async def _fail_waiting_clients(self, error: ServiceError) -> None:
        """Fail the jobs whose clients wait for the answer, and note the cause on the jobs that stay queued."""
        refused = await self._store.fail_waiting_clients(error)
        for job_id in refused:
            self._publish_end(job_id, Status.FAILED)
        await self._store.note_waiting(Cause.of(error))
        self._hub.publish_load_failed()
        await self._stop_acquiring_without_work()
        for job_id in refused:
            await self._delete_audio(job_id)

    async def _kill_if_unresponsive(self, attempt: _Attempt) -> None:
        await asyncio.sleep(self._cancel_seconds)
        if self._attempts.get(attempt.lease.job.id) is attempt:
            attempt.slot.kill("cancelled", "did not stop a cancelled job")

    async def _delete_audio(self, job_id: str) -> None:
        """Delete the audio of a final job; what cannot be deleted stays with the job, and retention retries."""
        # One at a time: two that delete the same object would both return its bytes to the quota.
        async with self._deleting:
            audio = await self._store.final_audio(job_id)
            if audio is not None:
                await self._spool.delete(audio)
                await self._store.detach_audio(job_id)
