"""The composition root: builds the server's parts from its settings, in the order of their lives, and ends them."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import structlog

from whisper_inference.auth import KeyRing, Principal
from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import ServiceError, error_of
from whisper_inference.gpu import NvmlGpu
from whisper_inference.jobs.database import close, open_engine
from whisper_inference.jobs.dispatcher import Dispatcher
from whisper_inference.jobs.events import EventHub
from whisper_inference.jobs.folder import data_folder_lock
from whisper_inference.jobs.model import Status
from whisper_inference.jobs.spool import Quota, Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.lifecycle.machine import Depth, Lifecycle, Policy, State
from whisper_inference.lifecycle.owner import LifecycleOwner, Unloaded
from whisper_inference.lifecycle.processes import Processes
from whisper_inference.lifecycle.receipts import LoadReceipt, UnloadReceipt
from whisper_inference.metrics import Metrics, Picture
from whisper_inference.probe import AudioProbe
from whisper_inference.settings import Settings
from whisper_inference.worker.host import Liveness
from whisper_inference.worker.parentage import adopt_orphans

log = structlog.stdlib.get_logger(__name__)

_SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ManualCommand:
    """A load or unload that a person asked for."""

    state: Literal["Loaded", "Unloaded"]
    at: datetime


@dataclass(slots=True)
class Observer:
    """Tells the lifecycle's events to those whom they concern."""

    metrics: Metrics
    dispatcher: Dispatcher | None = None
    load_seconds: dict[Depth, float] = field(default_factory=dict[Depth, float])

    def loaded(self, receipt: LoadReceipt) -> None:
        """Remember how long it took: the next waiting client is told."""
        self.load_seconds[Depth.COLD if "import" in receipt.phases else Depth.WARM] = receipt.seconds
        self.metrics.loaded(receipt)
        if self.dispatcher is not None:
            self.dispatcher.note_loaded()

    def load_failed(self, error: ServiceError, trigger: str) -> None:
        """Let the waiting clients know."""
        log.error("model.load_failed", trigger=trigger, code=error.code, detail=str(error))
        self.metrics.load_failed(error, trigger)
        if self.dispatcher is not None:
            self.dispatcher.note_load_failed(error)

    def unloaded(self, receipt: UnloadReceipt) -> None:
        """Count it."""
        self.metrics.unloaded(receipt)

    def worker_died(self, cause: str) -> None:
        """Count it."""
        self.metrics.worker_died(cause)


class WaitingRoom:
    """Counts the clients that wait for their answer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0


@dataclass(slots=True)
class Server:
    """The parts, as the routes see them."""

    settings: Settings
    version: str
    keys: KeyRing
    metrics: Metrics
    gpu: NvmlGpu
    processes: Processes
    owner: LifecycleOwner
    observer: Observer
    store: JobStore
    spool: Spool
    hub: EventHub
    dispatcher: Dispatcher
    probe: AudioProbe
    room: WaitingRoom
    started: asyncio.Event = field(default_factory=asyncio.Event)
    accepting: bool = True
    manual: ManualCommand | None = None
    _kept: set[asyncio.Task[Any]] = field(default_factory=set["asyncio.Task[Any]"])

    @property
    def lifecycle(self) -> Lifecycle:
        """The model's state at this instant."""
        return self.owner.lifecycle

    @property
    def running_jobs(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return self.dispatcher.running

    async def load(self, principal: Principal) -> LoadReceipt:
        """Load on somebody's behalf. Raises what made the load fail."""
        self._note_manual(principal, "Loaded")
        return await self.owner.load("manual" if principal.acts_by_hand else "operator")

    async def unload(self, principal: Principal, *, depth: Depth, force: bool) -> Unloaded:
        """Unload on somebody's behalf. Raises Superseded."""
        self._note_manual(principal, "Unloaded")
        reason = "manual" if principal.acts_by_hand else "operator"
        return await self.owner.unload(depth, reason=reason, force=force)

    async def queued(self) -> int:
        """Return how many jobs wait."""
        return (await self.store.counts())[Status.QUEUED]

    def ready_in_seconds(self) -> float | None:
        """Return how long a load is likely to take from here; None while nothing was measured."""
        if self.lifecycle.state is State.LOADED:
            return 0.0
        measured = self.observer.load_seconds.get(self.lifecycle.depth)
        return None if measured is None else round(measured + self.owner.retry_after, 3)

    def require_loadable(self) -> None:
        """Refuse work while the back-off of a failed load runs. Raises what made the load fail."""
        failure = self.owner.failure
        if failure is not None and self.lifecycle.state is State.FAILED and self.owner.retry_after > 0:
            refusal = error_of(failure.code, failure.params)
            refusal.retry_after = self.owner.retry_after
            raise refusal

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Let a task go on whose caller does not wait for it; its failure is in the lifecycle's own log."""
        self._kept.add(task)
        task.add_done_callback(self._drop)

    async def picture(self) -> Picture:
        """Return what the gauges show now."""
        receipt = self.owner.load_receipt
        return Picture(
            state=self.lifecycle.state,
            device=receipt.device if receipt and self.lifecycle.state is State.LOADED else "none",
            weight=await asyncio.to_thread(self.processes.weigh),
            gpu_reserved_bytes=self.processes.gpu_bytes[1],
            last_activity=datetime.now(UTC).timestamp() - self.owner.idle_seconds,
            jobs={status.value: count for status, count in (await self.store.counts()).items()},
            in_flight=len(self.running_jobs),
        )

    async def preload(self) -> None:
        """Load at start, if so set; a failure is told by status and startup, and the next task tries again."""
        try:
            if self.settings.preload_model:
                await self.owner.load("startup")
        except ServiceError:
            pass  # The observer has logged it.
        finally:
            self.started.set()

    def _note_manual(self, principal: Principal, state: Literal["Loaded", "Unloaded"]) -> None:
        if principal.acts_by_hand:
            self.manual = ManualCommand(state=state, at=datetime.now(UTC))

    def _drop(self, task: asyncio.Task[Any]) -> None:
        self._kept.discard(task)
        if not task.cancelled():
            task.exception()


@asynccontextmanager
async def running_server(settings: Settings) -> AsyncGenerator[Server]:
    """Run a server's parts; leaving the block ends its processes and closes its store. Raises DataFolderBusy."""
    async with AsyncExitStack() as stack:
        stack.enter_context(data_folder_lock(settings.data_dir))
        adopt_orphans()
        server = _assembled(settings)
        stack.push_async_callback(close, server.store.engine)
        stack.push_async_callback(server.owner.stop)
        # First of all, since importing takes longest and needs nothing of the rest.
        preloading = asyncio.create_task(server.preload())
        stack.push_async_callback(_end, preloading)
        await _recover(server)
        for loop in (server.dispatcher.run(), _sweep(server)):
            stack.push_async_callback(_end, asyncio.create_task(loop))
        try:
            yield server
        finally:
            server.accepting = False
            # Before the dispatcher's end, which puts the running job back into the queue.
            await server.owner.stop()


def _assembled(settings: Settings) -> Server:
    keys = KeyRing(settings.api_keys_file)
    package = version("whisper-inference")
    metrics = Metrics(version=package, model=settings.model, engine=settings.engine)
    gpu, hub = NvmlGpu(), EventHub()
    observer = Observer(metrics)
    processes = Processes(_spec(settings), gpu=gpu, liveness=Liveness(), on_zygote_lost=lambda: owner.zygote_lost())  # noqa: PLW0108 (owner comes later)
    unload_after = settings.unload_after.total_seconds() if settings.unload_after else None
    owner = LifecycleOwner(processes, policy=Policy(unload_after=unload_after), observer=observer)
    store = JobStore(engine=open_engine(settings.database), clock=_now, new_token=lambda: secrets.token_hex(16))
    quota = Quota(settings.max_stored_bytes)
    spool = Spool(
        open_store(settings.data_dir / "audio", settings.object_store_url),
        quota=quota,
        new_key=lambda: secrets.token_hex(16),
    )
    observer.dispatcher = dispatcher = Dispatcher(
        store=store,
        spool=spool,
        hub=hub,
        executor=owner,
        figures=metrics,
        fetched=settings.data_dir / "fetched",
        max_audio_seconds=settings.max_audio_seconds,
        clock=_now,
    )
    return Server(
        settings=settings,
        version=package,
        keys=keys,
        metrics=metrics,
        gpu=gpu,
        processes=processes,
        owner=owner,
        observer=observer,
        store=store,
        spool=spool,
        hub=hub,
        dispatcher=dispatcher,
        probe=AudioProbe(),
        room=WaitingRoom(settings.max_waiting),
    )


def _spec(settings: Settings) -> ModelSpec:
    return ModelSpec(
        size=settings.model,
        engine=settings.engine,
        cache_dir=str(settings.cache_dir),
        device=settings.device,
        compute_type=settings.compute_type,
        path=str(settings.model_path) if settings.model_path else None,
    )


async def _recover(server: Server) -> None:
    """Take up what an earlier server left: running jobs are queued again, audio of no job is deleted."""
    await server.store.prepare()
    recovered = await server.store.recover("the server ended while the job was running")
    owned = await server.store.stored_audio()
    orphans = await server.spool.delete_orphans({audio.key for audio in owned})
    server.spool.quota.used_bytes = sum(audio.size for audio in owned)
    if recovered.requeued or recovered.failed or orphans:
        log.info("jobs.recovered", requeued=len(recovered.requeued), failed=len(recovered.failed), orphans=len(orphans))


async def _sweep(server: Server) -> None:
    """Delete finished jobs when their time has come."""
    for _ in itertools.count():
        try:
            for audio in await server.store.sweep(server.settings.job_retention):
                await server.spool.delete(audio)
        except Exception:
            log.exception("jobs.sweep_failed")
        await asyncio.sleep(_SWEEP_SECONDS)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _now() -> datetime:
    return datetime.now(UTC)
