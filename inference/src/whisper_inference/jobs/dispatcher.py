"""Runs queued jobs on an executor and stores what comes back: at-least-once work, exactly-once results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog

from whisper_inference.errors import DatabaseUnavailable, DiskFull, ServiceError
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
from whisper_inference.jobs.background import BackgroundTasks, cancel_and_wait
from whisper_inference.jobs.events import (
    Done,
    EventHub,
    ModelLoadFailed,
    ProgressMade,
    SegmentAdded,
    StatusChanged,
    TextAdded,
)
from whisper_inference.jobs.job import Cause, Job, Lease, Section, StaleAttempt, Status
from whisper_inference.jobs.kill_rule import CANCEL_SECONDS, kill_if_unresponsive
from whisper_inference.jobs.lanes import Lanes
from whisper_inference.jobs.spool import Spool
from whisper_inference.jobs.start_limits import StartLimits
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.model_control import LoadOutcome, LoadOutcomes
from whispermodel.key import Key

_PROGRESS_SECONDS = 2.0
"""Between two stored values of progress: each is a disk write."""
_LATEST_WEIGHT = 0.3
_RETRY_SECONDS = 5.0
"""Between two attempts to use a failing store or a full disk."""
_UNCOUNTED_CAUSES = frozenset({"forced", "stopped", "leaving"})
"""The job is not to blame: its executor was taken away."""

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
    """Runs the queued jobs of every model, as many at a time as its executor has slots; `run` is its loop."""

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
        cancel_seconds: float = CANCEL_SECONDS,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._spool = spool
        self._hub = hub
        self._unfetched = unfetched
        self._loads = loads
        self._metrics = metrics
        self._max_audio_seconds = max_audio_seconds
        self._clock = clock
        self._cancel_seconds = cancel_seconds
        self._retry_seconds = retry_seconds
        self._attempts: dict[str, _Attempt] = {}
        self.speeds: dict[Key, float] = {}
        """How many seconds of audio each model transcribes in a second, as measured here."""
        self._lanes = Lanes(store=store, executor=executor, start_next=self._start_next, retry_seconds=retry_seconds)
        self._start_limits = StartLimits(store=store, end=self._end_overdue, clock=clock)
        self._deleting = asyncio.Lock()
        self._unsettled = 0
        self._settled = asyncio.Event()
        self._settled.set()
        self._background = BackgroundTasks("jobs.background_task_failed")
        # The lane reports it, unless the server is ending: then nothing was leased.
        self._leasing = BackgroundTasks("jobs.lease_failed", expected=Exception)
        self._note_lock = asyncio.Lock()

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return tuple(self._attempts)

    def running_of(self, model: Key) -> tuple[str, ...]:
        """Return the ids of a model's jobs that are being transcribed."""
        return tuple(job for job, attempt in self._attempts.items() if attempt.lease.job.model == model)

    async def run(self) -> None:
        """Serve until the executor shuts down."""
        loops = [asyncio.create_task(loop) for loop in (self._follow_loads(), self._start_limits.run())]
        try:
            await self._lanes.wake_queued()
            await self._lanes.shut_down.wait()  # No deadline: the executor's end is the server's.
        finally:
            await cancel_and_wait(*loops)
            await self._lanes.stop()

    def wake(self, model: Key) -> None:
        """Signal that a job of a model was queued."""
        self._lanes.wake(model)

    def note_start_limit(self) -> None:
        """Signal that a job was queued that fails unless it starts in time."""
        self._start_limits.changed.set()

    def note_unavailable(self, model: Key, cause: ServiceError) -> None:
        """Report to the queued jobs of a model why it cannot be used; those whose clients wait fail."""
        self._background.start(self._on_load_finished(LoadOutcome(model, cause)))

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
            is_running = lambda: self._attempts.get(job_id) is attempt  # noqa: E731
            killing = kill_if_unresponsive(attempt.slot, is_running=is_running, seconds=self._cancel_seconds)
            self._background.start(killing)
        else:
            await self._delete_audio(job_id)
            await self._lanes.stop_acquiring_without_work(job.model)
        return job

    async def settled(self, timeout: float) -> None:
        """Wait until the outcome of every attempt is stored, at most that many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._settled.wait()

    async def _start_next(self, model: Key, slot: Slot, held: AsyncExitStack) -> None:
        """Start the job that is due next, if there still is one."""
        # Before the lease is stored: the server's end waits for the outcome.
        held.enter_context(self._unsettled_outcome())
        # Shielded: once the lease is stored, its attempt must follow, also when the server ends meanwhile.
        await asyncio.shield(self._leasing.start(self._lease_and_start(model, slot, held.pop_all())))

    async def _lease_and_start(self, model: Key, slot: Slot, held: AsyncExitStack) -> None:
        async with held:
            lease = await self._store.lease(model)
            if lease is not None:
                self._background.start(self._attempt_in(held.pop_all(), slot, lease))

    @contextmanager
    def _unsettled_outcome(self) -> Generator[None]:
        """Count an attempt whose outcome is not stored yet."""
        self._unsettled += 1
        self._settled.clear()
        try:
            yield
        finally:
            self._unsettled -= 1
            if not self._unsettled:
                self._settled.set()

    async def _attempt_in(self, held: AsyncExitStack, slot: Slot, lease: Lease) -> None:
        """Run an attempt, and release its slot."""
        async with held:
            await self._attempt(lease, slot)
        # After the slot is released: neither an unload nor the server's end waits for it.
        await self._delete_audio(lease.job.id)

    async def _attempt(self, lease: Lease, slot: Slot) -> None:
        job = lease.job
        self._attempts[job.id] = attempt = _Attempt(lease=lease, slot=slot)
        if job.attempts == 1:
            self._metrics.job_started((self._clock() - job.created_at).total_seconds())
        self._hub.publish(job.id, StatusChanged(Status.RUNNING))
        log.info("job.started", job=job.id, attempt=job.attempts, resumed=lease.resume is not None)
        try:
            await self._run_attempt(attempt)
        except (DiskFull, DatabaseUnavailable) as error:
            self._background.start(self._requeue_later(lease, ExecutorLost("stopped", str(error))))
        except Exception as error:
            # The store failed: without this, the job would be running forever.
            log.exception("job.attempt_failed", job=job.id)
            self._background.start(
                self._requeue_later(lease, ExecutorLost("store", f"{type(error).__name__}: {error}"))
            )
        finally:
            del self._attempts[job.id]

    async def _run_attempt(self, attempt: _Attempt) -> None:
        """Run an attempt and store its outcome. Raises whatever the store raises."""
        try:
            await self._transcribe(attempt)
        except StaleAttempt:
            log.info("job.attempt_void", job=attempt.lease.job.id)
        except ExecutorLost as lost:
            job = attempt.lease.job
            log.warning("job.worker_gone", job=job.id, attempt=job.attempts, cause=lost.cause, error=lost.detail)
            await self._requeue(attempt.lease, lost)
        except (DiskFull, DatabaseUnavailable):
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
        self._measure_speed(job.model, audio_seconds / seconds if seconds > 0 else None)
        log.info("job.succeeded", job=job.id, seconds=round(seconds, 3), audio_seconds=audio_seconds)
        self._publish_end(job.id, Status.SUCCEEDED)

    def _measure_speed(self, model: Key, speed: float | None) -> None:
        """Keep a model's speed, seconds of audio per second, as an average in which the latest jobs weigh most."""
        if speed:
            self.speeds[model] = _LATEST_WEIGHT * speed + (1 - _LATEST_WEIGHT) * self.speeds.get(model, speed)

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
        self.wake(lease.job.model)

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
            if outcome.error:
                await self._fail_waiting_clients(outcome.model, outcome.error)
            else:
                await self._store.note_waiting(outcome.model, None)

    async def _fail_waiting_clients(self, model: Key, error: ServiceError) -> None:
        """Fail the jobs whose clients wait for the answer, and note the cause on the jobs that stay queued."""
        refused = await self._store.fail_waiting_clients(model, error)
        for job_id in refused:
            self._publish_end(job_id, Status.FAILED)
        await self._store.note_waiting(model, Cause.of(error))
        self._hub.publish_to_all(model, ModelLoadFailed())
        await self._lanes.stop_acquiring_without_work(model)
        for job_id in refused:
            await self._delete_audio(job_id)

    async def _end_overdue(self, job: Job) -> None:
        log.warning("job.not_started_in_time", job=job.id, start_by=job.start_by)
        self._publish_end(job.id, Status.FAILED)
        await self._lanes.stop_acquiring_without_work(job.model)
        await self._delete_audio(job.id)

    async def _delete_audio(self, job_id: str) -> None:
        """Delete the audio of a final job; what cannot be deleted stays with the job, and retention retries."""
        # One at a time: the second of two finds it gone.
        async with self._deleting:
            audio = await self._store.final_audio(job_id)
            if audio is not None:
                await self._spool.delete(audio)
                await self._store.detach_audio(job_id)
