"""The composition root: builds the server's parts from its settings, starts them in order, and ends them in reverse."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from whisper_inference.audio.probe import AudioProbe
from whisper_inference.jobs.database import close, open_engine
from whisper_inference.jobs.dispatcher import Dispatcher
from whisper_inference.jobs.events import EventHub
from whisper_inference.jobs.job import Status, StoredAudio
from whisper_inference.jobs.limits import Limits, Quota
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.spool import Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.service.local_control import LocalModelControl
from whisper_inference.service.local_executor import LocalExecutor
from whisper_inference.service.local_model import LocalModel
from whisper_inference.service.server import Server
from whisper_inference.service.shared_call import SharedCall
from whisper_inference.service.shutdown import STORE_OUTCOME_SECONDS, log_unfinished_jobs
from whisper_inference.settings import Settings

if TYPE_CHECKING:
    # Imported for real only with a model file: schedules cost time at the start.
    from whisper_inference.standalone.controller import Controller
    from whisper_inference.standalone.watch import ModelFile

log = structlog.stdlib.get_logger(__name__)

_SWEEP_SECONDS = 60.0


@asynccontextmanager
async def running_server(
    settings: Settings,
    model: LocalModel,
    *,
    model_file: ModelFile | None = None,
    show: Callable[[str], None] | None = None,
) -> AsyncGenerator[Server]:
    """Run the parts around a model; leaving the block ends the model's processes and closes the store.

    model_file: the file that these settings were taken from. show: prints the model's table after a transition. The
    caller holds the data folder's lock. Raises DataFolderTooNew, StorageUnusable.
    """
    async with AsyncExitStack() as stack:
        stack.push_async_callback(model.owner.stop)
        parts = _parts(settings, model)
        stack.push_async_callback(close, parts.store.engine)
        controller = _controller(parts, model_file, show=show)
        control = LocalModelControl(model, controller=controller)
        jobs = _job_service(parts, control)
        starting = asyncio.create_task(control.start(preload=settings.preload_model))
        stack.push_async_callback(_end, starting)
        await _recover(parts.store, parts.spool)
        for loop in (parts.dispatcher.run(), _sweep(parts.store, parts.spool, retention=settings.job_retention)):
            stack.push_async_callback(_end, asyncio.create_task(loop))
        if controller is not None:
            # The first decision is made before the first request is let in: it may be to refuse it.
            await controller.begin()
            stack.push_async_callback(_end, asyncio.create_task(controller.run()))
        try:
            yield Server(settings, model, control=control, jobs=jobs)
        finally:
            # The worker's end puts its job back into the queue; the dispatcher must have stored that before it ends.
            await model.owner.stop()
            await parts.dispatcher.settled(STORE_OUTCOME_SECONDS)
            await log_unfinished_jobs(parts.store, owner=model.owner, data_dir=settings.data_dir)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the job service and the controller of a model file are built on."""

    model: LocalModel
    """The processes of the model."""
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
    limits: Limits
    """What clients may ask for."""
    counts: SharedCall[dict[Status, int]]
    """The numbers of jobs by status."""

    @property
    def owner(self) -> LifecycleOwner:
        """Loads and unloads the model."""
        return self.model.owner

    async def queued(self) -> int:
        """Return how many jobs wait."""
        return (await self.counts())[Status.QUEUED]

    async def measure(self) -> MemoryUsage:
        """Return what the processes hold now."""
        return await self.model.measure()

    def configure(self, settings: Settings) -> None:
        """Apply other settings: another model is loaded after the running job, and new limits hold at once."""
        self.limits.max_waiting = settings.max_waiting
        self.limits.max_wait = settings.max_wait
        self.limits.max_audio_bytes = settings.max_audio_bytes
        self.spool.quota.limit_bytes = settings.max_stored_bytes
        self.model.change(settings)


def _parts(settings: Settings, model: LocalModel) -> _Parts:
    hub, unfetched = EventHub(), UnfetchedResults()
    store = JobStore(engine=open_engine(settings.database), clock=_now, new_token=_token)
    audio = open_store(settings.data_dir / "audio", settings.object_store_url)
    spool = Spool(audio, quota=Quota(settings.max_stored_bytes), new_key=_token)
    dispatcher = Dispatcher(
        store=store,
        spool=spool,
        hub=hub,
        unfetched=unfetched,
        executor=LocalExecutor(model.owner, spool=spool, fetched=settings.data_dir / "fetched"),
        loads=model.loads,
        metrics=model.metrics,
        max_audio_seconds=settings.max_audio_seconds,
        clock=_now,
    )
    limits = Limits(
        max_waiting=settings.max_waiting,
        max_wait=settings.max_wait,
        max_audio_bytes=settings.max_audio_bytes,
        max_audio_seconds=settings.max_audio_seconds,
    )
    # Many may read the counts at once, with or without a key.
    counts = SharedCall(store.counts)
    return _Parts(model, store, spool, hub, unfetched, dispatcher, limits, counts)


def _controller(
    parts: _Parts, model_file: ModelFile | None, *, show: Callable[[str], None] | None
) -> Controller | None:
    if model_file is None:
        return None
    from whisper_inference.standalone.controller import Controller
    from whisper_inference.standalone.record import RecordFile

    records = RecordFile(model_file.base.data_dir / "model.json")
    return Controller(model_file, server=parts, records=records, show=show)


def _job_service(parts: _Parts, control: LocalModelControl) -> JobService:
    return JobService(
        model=control,
        store=parts.store,
        spool=parts.spool,
        hub=parts.hub,
        unfetched=parts.unfetched,
        dispatcher=parts.dispatcher,
        probe=AudioProbe(),
        limits=parts.limits,
        counts=parts.counts,
    )


async def _recover(store: JobStore, spool: Spool) -> None:
    """Recover what an earlier server left: queue running jobs again, delete audio of no job."""
    await store.prepare()
    recovered = await store.recover("the server exited while the job was running")
    owned = await store.stored_audio()
    orphans = await spool.delete_orphans({audio.key for audio in owned})
    spool.quota.used_bytes = sum(audio.size for audio in owned)
    if recovered.requeued or recovered.failed or orphans:
        log.info("jobs.recovered", requeued=len(recovered.requeued), failed=len(recovered.failed), orphans=len(orphans))


async def _sweep(store: JobStore, spool: Spool, *, retention: timedelta) -> None:
    """Delete finished jobs once their retention is over."""
    for _ in itertools.count():
        try:
            swept = await store.sweep(retention)
        except Exception:
            log.exception("jobs.sweep_failed")
        else:
            for audio in swept:
                await _delete_swept(spool, audio)
        await asyncio.sleep(_SWEEP_SECONDS)


async def _delete_swept(spool: Spool, audio: StoredAudio) -> None:
    try:
        await spool.delete(audio)
    except Exception:
        # Its bytes count until the next start, which deletes what no job owns. Continue with the others.
        log.exception("jobs.audio_not_deleted", key=audio.key)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _token() -> str:
    return secrets.token_hex(16)


def _now() -> datetime:
    return datetime.now(UTC)
