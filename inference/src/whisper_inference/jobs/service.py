"""Stored jobs as the API sees them: looked up, followed and cancelled, whatever their model is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from whisper_inference.errors import ResultNotReady, ServiceError
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.dispatcher import Dispatcher
from whisper_inference.jobs.events import EventHub, Subscription
from whisper_inference.jobs.job import Added, Existing, Job, Page, Status
from whisper_inference.jobs.spool import Spool, SpoolWriter
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.transcripts.transcript import Segment, Transcript
from whispermodel.key import Key


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """A request whose client waits for the answer."""

    job: Job
    """Its own job, or after it is stored the earlier one that it joined."""
    gone: asyncio.Future[None]
    """Done once the client has hung up."""
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the job is stored, or refused."""

    async def storing(self, adding: Awaitable[Added | Existing]) -> Added | Existing:
        """Await the store, and release the retries that wait for it. Raises what the store raises."""
        try:
            added = await adding
            self.job = added.job
        finally:
            self.stored.set()
        return added


@dataclass(slots=True, kw_only=True)
class JobService:
    """The stored jobs of all models."""

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
    retry_window: timedelta = timedelta()
    """How long a job goes on for a client that lost its connection (WHISPER_RETRY_WINDOW)."""
    accepting: bool = True
    """False once the server is stopping."""
    arrivals: int = 0
    """How many requests are uploading audio now, repeats included."""
    _uploads_ended: asyncio.Event = field(default_factory=asyncio.Event)
    _clients: Counter[str] = field(default_factory=Counter[str])
    _requests: list[WaitingRequest] = field(default_factory=list[WaitingRequest])
    _background: BackgroundTasks = field(default_factory=lambda: BackgroundTasks("jobs.background_task_failed"))

    def stop_accepting(self) -> None:
        """Refuse new work from now on: the server is stopping."""
        self.accepting = False

    @contextmanager
    def arrival(self) -> Generator[None]:
        """Count a request that uploads audio."""
        self.arrivals += 1
        try:
            yield
        finally:
            self.arrivals -= 1
            if not self.arrivals:
                self._uploads_ended.set()

    async def uploads_ended(self) -> None:
        """Wait until the last upload in progress has ended since the previous call."""
        await self._uploads_ended.wait()  # No deadline: there may be no uploads for long.
        self._uploads_ended.clear()

    def audio_writer(
        self, limit_bytes: int, *, model: Key, principal: str, expected_bytes: int | None
    ) -> AbstractAsyncContextManager[SpoolWriter]:
        """Open a spool object for one upload; leaving the block without a commit leaves nothing behind."""
        return self.spool.writer(limit_bytes, model=model, principal=principal, expected_bytes=expected_bytes)

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

    @contextmanager
    def client_of(self, job_id: str) -> Generator[None]:
        """Count a client that waits for a job's answer."""
        self._clients[job_id] += 1
        try:
            yield
        finally:
            self._clients[job_id] -= 1
            if not self._clients[job_id]:
                del self._clients[job_id]

    @contextmanager
    def waiting(self, job: Job, gone: asyncio.Future[None]) -> Generator[WaitingRequest]:
        """Keep a request whose client waits, from before its job is stored; gone: done once the client has hung up."""
        request = WaitingRequest(job, gone)
        self._requests.append(request)
        try:
            yield request
        finally:
            self._requests.remove(request)
            request.stored.set()

    async def settle_lost_clients(self, job: Job) -> None:
        """Note which clients of the same request are gone: their ends may be noticed only after a retry has come."""
        for other in list(self._requests):
            if other.job.id == job.id:
                return  # Only earlier ones: two must not wait for each other.
            same = (other.job.principal, other.job.fingerprint) == (job.principal, job.fingerprint)
            if same and other.gone.done():
                await other.stored.wait()  # No deadline: the probe and the store have theirs.
                await self.store.note_client_gone(other.job.id)

    async def abandon(self, job_id: str) -> None:
        """Let a job go on for a client that lost its connection; cancel it unless the client comes back in time."""
        if not self.retry_window:
            await self.cancel(job_id)
            return
        if self._clients[job_id]:
            return  # The client is back already.
        await self.store.note_client_gone(job_id)
        self._background.start(self._cancel_abandoned(job_id))

    async def _cancel_abandoned(self, job_id: str) -> None:
        await asyncio.sleep(self.retry_window.total_seconds())
        if not self._clients[job_id] and await self.store.is_abandoned(job_id):
            await self.cancel(job_id)

    async def detach_client(self, job_id: str) -> None:
        """Let a job continue without the client that waited for its answer."""
        await self.store.detach_client(job_id)

    def follow(self, job: Job) -> AbstractContextManager[Subscription]:
        """Subscribe to a job's events."""
        return self.hub.subscribe(job.id, job.model)

    def note_seen(self, job: Job) -> None:
        """Note that a client has seen a job; if the job is final, the client may fetch its result now."""
        if job.status.final:
            self.unfetched.note_seen(job.id)
