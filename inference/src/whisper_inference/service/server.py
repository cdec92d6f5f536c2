"""The composition root: builds the server's parts from its settings, in the order of their lives, and ends them."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import structlog

from whisper_inference.audio.probe import AudioProbe
from whisper_inference.auth import KeyRing, Principal
from whisper_inference.errors import Overruled, ResultNotReady, ServiceError, ShuttingDown, Superseded, error_of
from whisper_inference.jobs.database import close, open_engine
from whisper_inference.jobs.dispatcher import Dispatcher
from whisper_inference.jobs.events import EventHub
from whisper_inference.jobs.job import Status, StoredAudio
from whisper_inference.jobs.spool import Quota, Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.uncollected import Uncollected
from whisper_inference.lifecycle.machine import Depth, Lifecycle, State
from whisper_inference.lifecycle.owner import LifecycleOwner, Unloaded
from whisper_inference.lifecycle.processes import Weight
from whisper_inference.lifecycle.receipts import LoadReceipt
from whisper_inference.service.drain import PUT_BACK_SECONDS, tell_left_jobs
from whisper_inference.service.local_executor import LocalExecutor
from whisper_inference.service.local_model import Model
from whisper_inference.service.metrics import Metrics, Picture
from whisper_inference.service.shared_call import SharedCall
from whisper_inference.settings import Settings
from whisper_inference.transcripts.transcript import Transcript
from whisper_inference.worker.resident import give_back_what_is_idle

if TYPE_CHECKING:
    # Imported for real only with a model file: schedules cost time at the start.
    from whisper_inference.standalone.controller import Obedience

log = structlog.stdlib.get_logger(__name__)

_SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ManualCommand:
    """A load or unload that a person asked for."""

    state: Literal["Loaded", "Unloaded"]
    at: datetime


class WaitingRoom:
    """Counts the clients that wait for their answer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0


@dataclass(slots=True)
class Server:
    """The parts, as the routes see them. arrivals: how many requests bring audio just now, repeats included."""

    settings: Settings
    model: Model
    keys: KeyRing
    store: JobStore
    spool: Spool
    hub: EventHub
    uncollected: Uncollected
    dispatcher: Dispatcher
    probe: AudioProbe
    room: WaitingRoom
    arrivals: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    accepting: bool = True
    manual: ManualCommand | None = None
    obedience: Obedience | None = None
    _kept: set[asyncio.Task[Any]] = field(default_factory=set["asyncio.Task[Any]"])
    _weighing: SharedCall[Weight] = field(init=False)
    _counting: SharedCall[dict[Status, int]] = field(init=False)

    def __post_init__(self) -> None:
        """Share what reads of the state cost, for many may ask at once, with or without a key."""
        self._weighing = SharedCall(self.owner.weigh)
        self._counting = SharedCall(self.store.counts)

    @property
    def owner(self) -> LifecycleOwner:
        """Whoever loads and unloads."""
        return self.model.owner

    @property
    def metrics(self) -> Metrics:
        """Where everything is counted."""
        return self.model.metrics

    @property
    def lifecycle(self) -> Lifecycle:
        """The model's state at this instant."""
        return self.owner.lifecycle

    @property
    def running_jobs(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return self.dispatcher.running

    @property
    def in_flight(self) -> int:
        """How many jobs have the worker, one that is only just being leased included."""
        return max(len(self.running_jobs), int(self.lifecycle.lessee is not None))

    async def load(self, principal: Principal) -> LoadReceipt:
        """Load on somebody's behalf. Raises what made the load fail, Superseded, Overruled."""
        await self._note_manual(principal, "Loaded")
        try:
            return await self.owner.load("manual" if principal.acts_by_hand else "operator")
        except Superseded:
            if self.obedience and (decision := self.obedience.overruling()):
                raise Overruled(decision=decision) from None
            raise

    async def unload(self, principal: Principal, *, depth: Depth, force: bool) -> Unloaded:
        """Unload on somebody's behalf. Raises Superseded."""
        await self._note_manual(principal, "Unloaded")
        reason = "manual" if principal.acts_by_hand else "operator"
        return await self.owner.unload(depth, reason=reason, force=force)

    async def queued(self) -> int:
        """Return how many jobs wait."""
        return (await self._counting())[Status.QUEUED]

    async def weigh(self) -> Weight:
        """Return what the processes hold now."""
        return await self._weighing()

    def ready_in_seconds(self) -> float | None:
        """Return how long a load is likely to take from here; None while nothing was measured."""
        if self.lifecycle.state is State.LOADED:
            return 0.0
        measured = self.model.observer.load_seconds.get(self.lifecycle.depth)
        return None if measured is None else round(measured + self.owner.retry_after, 3)

    def require_acceptable(self) -> None:
        """Refuse work that would not be served now.

        Raises ShuttingDown, RefusedUntil, RefusedForNow, and what made the last load fail.
        """
        if not self.accepting:
            raise ShuttingDown
        if refusal := self.refusal():
            raise refusal
        self.require_loadable()

    @contextmanager
    def arrival(self) -> Generator[None]:
        """Count a request that was let in and brings audio."""
        self.arrivals += 1
        try:
            yield
        finally:
            self.arrivals -= 1

    def refusal(self) -> ServiceError | None:
        """Return why a model file's demandPolicy keeps new work out at this instant."""
        return self.obedience.refusal() if self.obedience else None

    def require_loadable(self) -> None:
        """Refuse work while the back-off of a failed load runs. Raises what made the load fail."""
        failure = self.owner.failure
        if failure is not None and self.lifecycle.state is State.FAILED and self.owner.retry_after > 0:
            refusal = error_of(failure.code, failure.params)
            refusal.retry_after = self.owner.retry_after
            raise refusal

    async def transcript(self, job_id: str) -> Transcript:
        """Return a job's transcript to a client, who is not waited for any more. Raises what the store raises."""
        try:
            transcript = await self.store.transcript(job_id)
        except ResultNotReady:
            raise
        except ServiceError:
            # Why there is none is all that there is to fetch.
            self.uncollected.discard(job_id)
            raise
        self.uncollected.discard(job_id)
        return transcript

    def configure(self, settings: Settings) -> None:
        """Go on with other settings: another model is loaded after the running job, and new limits hold at once."""
        self.settings = settings
        self.room.limit = settings.max_waiting
        self.spool.quota.limit_bytes = settings.max_stored_bytes
        self.model.change(settings)

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
            weight=await self.weigh(),
            gpu_reserved_bytes=self.owner.gpu_bytes[1],
            last_activity=datetime.now(UTC).timestamp() - self.owner.idle_seconds,
            jobs={status.value: count for status, count in (await self._counting()).items()},
            in_flight=self.in_flight,
        )

    async def preload(self) -> None:
        """Load at start, if so set; a failure is told by status and startup, and the next task tries again."""
        try:
            if self.settings.preload_model:
                await self.owner.load("startup")
            else:
                await asyncio.to_thread(give_back_what_is_idle)
        except ServiceError:
            pass  # The observer has logged it.
        finally:
            self.started.set()

    async def _note_manual(self, principal: Principal, state: Literal["Loaded", "Unloaded"]) -> None:
        if principal.acts_by_hand:
            self.manual = ManualCommand(state=state, at=datetime.now(UTC))
            if self.obedience is not None:
                await self.obedience.keep_manual(state, at=self.manual.at)

    def _drop(self, task: asyncio.Task[Any]) -> None:
        self._kept.discard(task)
        if not task.cancelled():
            task.exception()


@asynccontextmanager
async def running_server(
    settings: Settings, model: Model, *, obedience: Obedience | None = None
) -> AsyncGenerator[Server]:
    """Run the parts around a model; leaving the block ends the model's processes and closes the store.

    obedience: to the model file, which these settings were taken from. The caller holds the data folder's lock. Raises
    KeyFileError, DataFolderTooNew.
    """
    async with AsyncExitStack() as stack:
        stack.push_async_callback(model.owner.stop)
        server = _assembled(settings, model)
        stack.push_async_callback(close, server.store.engine)
        stack.push_async_callback(_end, asyncio.create_task(server.preload()))
        await _recover(server)
        for loop in (server.dispatcher.run(), _sweep(server)):
            stack.push_async_callback(_end, asyncio.create_task(loop))
        if obedience is not None:
            server.obedience = obedience
            # The first decision is made before the first request is let in: it may be to refuse it.
            await obedience.begin(server)
            if by_hand := obedience.manual:
                server.manual = ManualCommand("Loaded" if by_hand.state == "Loaded" else "Unloaded", by_hand.at)
            stack.push_async_callback(_end, asyncio.create_task(obedience.run()))
        try:
            yield server
        finally:
            # The worker's end puts its job back into the queue; the dispatcher must have stored that before it ends.
            await model.owner.stop()
            await server.dispatcher.at_rest(PUT_BACK_SECONDS)
            await tell_left_jobs(server)


def _assembled(settings: Settings, model: Model) -> Server:
    keys, hub, uncollected = KeyRing(settings.api_keys_file), EventHub(), Uncollected()
    store = JobStore(engine=open_engine(settings.database), clock=_now, new_token=_token)
    audio = open_store(settings.data_dir / "audio", settings.object_store_url)
    spool = Spool(audio, quota=Quota(settings.max_stored_bytes), new_key=_token)
    dispatcher = Dispatcher(
        store=store,
        spool=spool,
        hub=hub,
        uncollected=uncollected,
        executor=LocalExecutor(model.owner, spool=spool, fetched=settings.data_dir / "fetched"),
        loads=model.loads,
        figures=model.metrics,
        max_audio_seconds=settings.max_audio_seconds,
        clock=_now,
    )
    return Server(
        settings=settings,
        model=model,
        keys=keys,
        store=store,
        spool=spool,
        hub=hub,
        uncollected=uncollected,
        dispatcher=dispatcher,
        probe=AudioProbe(),
        room=WaitingRoom(settings.max_waiting),
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
            swept = await server.store.sweep(server.settings.job_retention)
        except Exception:
            log.exception("jobs.sweep_failed")
        else:
            for audio in swept:
                await _delete_swept(server.spool, audio)
        await asyncio.sleep(_SWEEP_SECONDS)


async def _delete_swept(spool: Spool, audio: StoredAudio) -> None:
    try:
        await spool.delete(audio)
    except Exception:
        # Its bytes count until the next start, which deletes what no job owns; the others are deleted now.
        log.exception("jobs.audio_not_deleted", key=audio.key)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _token() -> str:
    return secrets.token_hex(16)


def _now() -> datetime:
    return datetime.now(UTC)
