"""One model's queue: which requests are let in, and how their jobs get there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from whisper_inference.audio.probe import AudioProbe
from whisper_inference.errors import ServiceError, ShuttingDown
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.job import Added, Existing, Job, Status
from whisper_inference.jobs.limits import Limits, WaitingClients, WaitingPlace
from whisper_inference.jobs.service import JobService
from whisper_inference.model_control import ModelControl
from whispermodel.key import Key
from whispermodel.states import State

_PROBE_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class ModelQueue:
    """The way in for the jobs of one model."""

    key: Key
    """Which model."""
    model: ModelControl
    """What the jobs need, and what may refuse them."""
    jobs: JobService
    """Where the jobs are stored, with those of other models."""
    probe: AudioProbe
    """Reads the length of audio."""
    limits: Limits
    """What clients may ask for."""
    counts: Callable[[], Awaitable[dict[Status, int]]]
    """Returns how many jobs of the model there are of each status; cheap for many callers at once."""
    in_pods: bool = False
    """Whether jobs wake pods. Then audio is probed first, since a pod costs more; and a job for which nobody waits is
    let in although no pod can start: one may start later."""
    _waiting: WaitingClients = field(default_factory=WaitingClients)
    _background: BackgroundTasks = field(
        # The request that waits for it gets the error.
        default_factory=lambda: BackgroundTasks("jobs.background_task_failed", expected=ServiceError)
    )

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return self.jobs.dispatcher.running_of(self.key)

    @property
    def in_flight(self) -> int:
        """How many jobs hold an executor, one that is only just being leased included."""
        return max(len(self.running), self.model.facts().in_flight)

    async def queued(self) -> int:
        """Return how many jobs wait."""
        return (await self.counts())[Status.QUEUED]

    async def outlook(self, job: Job) -> tuple[int | None, float | None]:
        """Return how many jobs are due before a queued one, and the seconds until it is likely to start.

        Both None: it is not queued any more. The seconds are None while the model's speed or start is unknown.
        """
        ahead = await self.jobs.store.ahead(job.id)
        if ahead is None:
            return None, None
        start, speed = self.model.facts().ready_in_seconds, self.jobs.dispatcher.speeds.get(self.key)
        if start is None or (speed is None and ahead.jobs):
            return ahead.jobs, None
        return ahead.jobs, round(start + (ahead.audio_seconds / speed if speed else 0.0), 1)

    def waiting_client(self, owner: str | None) -> AbstractContextManager[WaitingPlace]:
        """Count a client that waits for its answer. owner: its key's name; None without keys.

        Raises TooManyWaiting and TooManyUploads.
        """
        retry_after = self.model.facts().ready_in_seconds or 1
        return self._waiting.client(self.limits.max_waiting, owner=owner, retry_after=retry_after)

    @asynccontextmanager
    async def admit(self, owner: str, *, idempotency_key: str | None, synchronous: bool) -> AsyncGenerator[Admission]:
        """Let a request in and load the model while its audio arrives. A repeat is always let in, and loads nothing.

        Raises what `require_acceptable` raises.
        """
        if idempotency_key is not None and await self.jobs.store.has_key(owner, idempotency_key):
            with self.jobs.arrival():
                recheck = partial(self.require_acceptable, synchronous=synchronous)
                yield Admission(self, withdraw=_do_nothing, recheck=recheck)
            return
        self.require_acceptable(synchronous=synchronous)
        with self.jobs.arrival():
            async with self.model.expect_work() as withdraw:
                yield Admission(self, withdraw=withdraw, recheck=self.require_loadable if synchronous else _do_nothing)

    def require_acceptable(self, *, synchronous: bool) -> None:
        """Refuse work that would not be served now.

        Raises ShuttingDown, RefusedUntil, RefusedForNow, and what makes the model unavailable.
        """
        if not self.jobs.accepting:
            raise ShuttingDown
        if refusal := self.model.refusal():
            raise refusal
        if synchronous or not self.in_pods:
            self.require_loadable()

    def require_loadable(self) -> None:
        """Refuse work that would not be served soon. Raises why, such as what made the last load fail."""
        if failure := self.model.unavailable():
            raise failure

    async def add(self, job: Job, *, recheck: Callable[[], None]) -> Added | Existing:
        """Store a job, or find the one that its key brought before; audio that no job needs is deleted.

        recheck: refuses new work by raising. Raises what the probe and the store raise.
        """
        # Shielded: a caller that is cancelled here cannot know whether the job is stored, and must not undo it.
        return await asyncio.shield(self._background.start(self._add(job, recheck=recheck)))

    async def _add(self, job: Job, *, recheck: Callable[[], None]) -> Added | Existing:
        jobs = self.jobs
        try:
            added = await self._known(job) or await self._add_new(job, recheck=recheck)
        except Exception:
            await jobs.spool.delete(job.audio)
            raise
        if isinstance(added, Added):
            jobs.dispatcher.wake(self.key)
            if job.start_by is not None:
                jobs.dispatcher.note_start_limit()
            if cause := self.model.unavailable():
                # Known before the job was stored, so that no event will tell it.
                jobs.dispatcher.note_unavailable(self.key, cause)
            return added
        await jobs.spool.delete(job.audio)
        if job.synchronous and not added.job.status.final:
            self.require_loadable()
        return added

    async def _known(self, job: Job) -> Existing | None:
        """Return the job that this request repeats: by its key, or because its client lost the connection before."""
        if job.idempotency_key is not None:
            return await self.jobs.store.repeated(job)
        if not job.synchronous or not self.jobs.retry_window:
            return None
        # The job of a client that is gone may still be about to be stored.
        await self.jobs.settle_lost_clients(job)
        return await self.jobs.store.rejoin(job, within=self.jobs.retry_window)

    async def _add_new(self, job: Job, *, recheck: Callable[[], None]) -> Added | Existing:
        probed = await self._probed(job)
        # A load that failed during the upload is reported now, not after the next attempt; and a key may be free again.
        recheck()
        return await self.jobs.store.add(probed)

    async def _probed(self, job: Job) -> Job:
        """Return the job with its length, unless a client waits: whoever transcribes reports bad audio to that one."""
        path = self.jobs.spool.local_path(job.audio.key)
        wakes = self.in_pods and self.model.facts().state is not State.LOADED
        if path is None or (job.synchronous and not wakes):
            return job
        info = await self.probe.run(path, max_seconds=self.limits.max_audio_seconds, timeout=_PROBE_SECONDS)
        return replace(job, audio_seconds=info.seconds)


class Admission:
    """A request that was let in, until its job is stored."""

    def __init__(self, queue: ModelQueue, *, withdraw: Callable[[], None], recheck: Callable[[], None]) -> None:
        self._queue = queue
        self._withdraw = withdraw
        self._recheck = recheck

    async def add(self, job: Job) -> Added | Existing:
        """Store the job of the request. Raises what the probe and the store raise, and why it is refused after all."""
        added = await self._queue.add(job, recheck=self._recheck)
        if not isinstance(added, Added):
            # The job of an earlier request, which asks for the model itself if it still has to.
            self._withdraw()
        return added


def _do_nothing() -> None:
    """Do nothing."""
