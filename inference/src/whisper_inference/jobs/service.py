"""Jobs as the API sees them: let in, stored, looked up, followed and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from whisper_inference.audio.probe import AudioProbe
from whisper_inference.errors import ResultNotReady, ServiceError, ShuttingDown
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.dispatcher import Dispatcher
from whisper_inference.jobs.events import EventHub, Subscription
from whisper_inference.jobs.job import Added, Existing, Job, Page, Status
from whisper_inference.jobs.limits import Limits, WaitingClients
from whisper_inference.jobs.spool import Spool, SpoolWriter
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.model_control import ModelControl
from whisper_inference.transcripts.transcript import Segment, Transcript

_PROBE_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class JobService:
    """The jobs of one model."""

    model: ModelControl
    """What the jobs need, and what may refuse them."""
    store: JobStore
    """The durable queue."""
    spool: Spool
    """The stored audio."""
    hub: EventHub
    """Who follows a job."""
    unfetched: UnfetchedResults
    """Results that nobody has fetched yet."""
    dispatcher: Dispatcher
    """Runs the queued jobs."""
    probe: AudioProbe
    """Reads the length of audio."""
    limits: Limits
    """What clients may ask for."""
    counts: Callable[[], Awaitable[dict[Status, int]]]
    """Returns how many jobs there are of each status; cheap for many callers at once."""
    accepting: bool = True
    """False once the server is stopping."""
    arrivals: int = 0
    """How many requests are uploading audio now, repeats included."""
    _waiting: WaitingClients = field(default_factory=WaitingClients)
    _background: BackgroundTasks = field(
        # The request that waits for it gets the error.
        default_factory=lambda: BackgroundTasks("jobs.background_task_failed", expected=ServiceError)
    )

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return self.dispatcher.running

    @property
    def in_flight(self) -> int:
        """How many jobs hold an executor, one that is only just being leased included."""
        return max(len(self.running), self.model.facts().in_flight)

    async def queued(self) -> int:
        """Return how many jobs wait."""
        return (await self.counts())[Status.QUEUED]

    def stop_accepting(self) -> None:
        """Refuse new work from now on: the server is stopping."""
        self.accepting = False

    def waiting_client(self) -> AbstractContextManager[None]:
        """Count a client that waits for its answer. Raises TooManyWaiting."""
        return self._waiting.client(self.limits.max_waiting, retry_after=self.model.facts().ready_in_seconds or 1)

    @asynccontextmanager
    async def admit(self, owner: str, *, idempotency_key: str | None, synchronous: bool) -> AsyncGenerator[Admission]:
        """Let a request in and load the model while its audio arrives. A repeat is always let in, and loads nothing.

        Raises what `require_acceptable` raises.
        """
        if idempotency_key is not None and await self.store.has_key(owner, idempotency_key):
            with self._arrival():
                yield Admission(self, withdraw=_do_nothing, recheck=self.require_acceptable)
            return
        self.require_acceptable()
        with self._arrival():
            async with self.model.expect_work() as withdraw:
                yield Admission(self, withdraw=withdraw, recheck=self.require_loadable if synchronous else _do_nothing)

    def require_acceptable(self) -> None:
        """Refuse work that would not be served now.

        Raises ShuttingDown, RefusedUntil, RefusedForNow, and what made the last load fail.
        """
        if not self.accepting:
            raise ShuttingDown
        if refusal := self.model.refusal():
            raise refusal
        self.require_loadable()

    def require_loadable(self) -> None:
        """Refuse work while the back-off of a failed load runs. Raises what made the load fail."""
        if failure := self.model.facts().load_failure():
            raise failure

    def audio_writer(self) -> AbstractAsyncContextManager[SpoolWriter]:
        """Open a spool object for one upload; leaving the block without a commit leaves nothing behind."""
        return self.spool.writer(self.limits.max_audio_bytes)

    async def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return a job of one owner, or (None) of anybody. Raises JobNotFound."""
        return await self.store.get(job_id, owner=owner)

    async def page(
        self, *, owner: str | None, status: Status | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page:
        """Return jobs of one owner, or (None) of everybody, newest first. Raises JobNotFound for a foreign cursor."""
        return await self.store.page(owner=owner, status=status, cursor=cursor, limit=limit)

    async def segments(self, job_id: str) -> tuple[Segment, ...]:
        """Return the segments stored so far."""
        return await self.store.segments(job_id)

    async def text(self, job_id: str) -> str:
        """Return the text stored so far."""
        return await self.store.text(job_id)

    async def transcript(self, job_id: str) -> Transcript:
        """Return a job's transcript to a client; its result counts as fetched. Raises what the store raises."""
        try:
            transcript = await self.store.transcript(job_id)
        except ResultNotReady:
            raise
        except ServiceError:
            # Why there is none is all that there is to fetch.
            self.unfetched.discard(job_id)
            raise
        self.unfetched.discard(job_id)
        return transcript

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final, and return it. Raises JobNotFound."""
        return await self.dispatcher.cancel(job_id)

    async def detach_client(self, job_id: str) -> None:
        """Let a job continue without the client that waited for its answer."""
        await self.store.detach_client(job_id)

    def follow(self, job_id: str) -> AbstractContextManager[Subscription]:
        """Subscribe to a job's events."""
        return self.hub.subscribe(job_id)

    def note_seen(self, job: Job) -> None:
        """Note that a client has seen a job; if the job is final, the client may fetch its result now."""
        if job.status.final:
            self.unfetched.note_seen(job.id)

    async def add(self, job: Job, *, recheck: Callable[[], None]) -> Added | Existing:
        """Store a job, or find the one that its key brought before; audio that no job needs is deleted.

        recheck: refuses new work by raising. Raises what the probe and the store raise.
        """
        # Shielded: a caller that is cancelled here cannot know whether the job is stored, and must not undo it.
        return await asyncio.shield(self._background.start(self._add(job, recheck=recheck)))

    async def _add(self, job: Job, *, recheck: Callable[[], None]) -> Added | Existing:
        try:
            added = await self.store.repeated(job) or await self._add_new(job, recheck=recheck)
        except Exception:
            await self.spool.delete(job.audio)
            raise
        if isinstance(added, Added):
            self.dispatcher.wake()
            return added
        await self.spool.delete(job.audio)
        if job.synchronous and not added.job.status.final:
            self.require_loadable()
        return added

    async def _add_new(self, job: Job, *, recheck: Callable[[], None]) -> Added | Existing:
        probed = await self._probed(job)
        # A load that failed during the upload is reported now, not after the next attempt; and a key may be free again.
        recheck()
        return await self.store.add(probed)

    async def _probed(self, job: Job) -> Job:
        """Return the job with its length, unless a client waits: the worker reports bad audio to that one."""
        path = self.spool.local_path(job.audio.key)
        if job.synchronous or path is None:
            return job
        info = await self.probe.run(path, max_seconds=self.limits.max_audio_seconds, timeout=_PROBE_SECONDS)
        return replace(job, audio_seconds=info.seconds)

    @contextmanager
    def _arrival(self) -> Generator[None]:
        self.arrivals += 1
        try:
            yield
        finally:
            self.arrivals -= 1


class Admission:
    """A request that was let in, until its job is stored."""

    def __init__(self, jobs: JobService, *, withdraw: Callable[[], None], recheck: Callable[[], None]) -> None:
        self._jobs = jobs
        self._withdraw = withdraw
        self._recheck = recheck

    async def add(self, job: Job) -> Added | Existing:
        """Store the job of the request. Raises what the probe and the store raise, and why it is refused after all."""
        added = await self._jobs.add(job, recheck=self._recheck)
        if not isinstance(added, Added):
            # The job of an earlier request, which asks for the model itself if it still has to.
            self._withdraw()
        return added


def _do_nothing() -> None:
    """Do nothing."""
