"""Serves each model's queue while it has jobs: waits for a slot, then starts the job that is due next on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import structlog

from whisper_inference.errors import ShuttingDown
from whisper_inference.execution import Executor, ExecutorLost, Slot
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.store import JobStore
from whispermodel.key import Key

StartNext = Callable[[Key, Slot, AsyncExitStack], Awaitable[None]]
"""Starts the job that is due next on a slot. The stack releases the slot; whoever takes it over empties it."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Lane:
    """One model's queue while it is served."""

    model: Key
    """The model that its jobs need."""
    work: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a job was queued."""
    acquiring: asyncio.Timeout | None = None
    """Ends the wait for a slot; None: no slot is waited for."""


@dataclass(slots=True, kw_only=True)
class Lanes:
    """One loop for each model with queued jobs."""

    store: JobStore
    """Where the jobs are."""
    executor: Executor
    """What lends the slots."""
    start_next: StartNext
    """Starts a job."""
    retry_seconds: float
    """Between two attempts to use a failing store."""
    shut_down: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the executor has shut down: nothing is served any more."""
    _lanes: dict[Key, _Lane] = field(default_factory=dict[Key, _Lane])
    _loops: BackgroundTasks = field(default_factory=lambda: BackgroundTasks("jobs.lane_failed"))

    def wake(self, model: Key) -> None:
        """Signal that a job of a model was queued."""
        lane = self._lanes.get(model)
        if lane is None and not self.shut_down.is_set():
            lane = self._lanes[model] = _Lane(model)
            self._loops.start(self._serve(lane))
        if lane is not None:
            lane.work.set()

    async def wake_queued(self) -> None:
        """Serve what an earlier process left; retry, since the disk may be full for long."""
        while True:
            try:
                for model in await self.store.waiting_models():
                    self.wake(model)
                return
            except Exception:
                log.exception("jobs.queue_unreadable", retry_seconds=self.retry_seconds)
            await asyncio.sleep(self.retry_seconds)

    async def stop_acquiring_without_work(self, model: Key) -> None:
        """End the wait for a slot, which counts as demand, when no job of the model is queued any more."""
        has_queued = await self.store.has_queued(model)
        lane = self._lanes.get(model)
        if not has_queued and lane is not None and lane.acquiring is not None:
            lane.acquiring.reschedule(asyncio.get_running_loop().time())

    async def stop(self) -> None:
        """End all loops."""
        await self._loops.cancel()

    async def _serve(self, lane: _Lane) -> None:
        logged = ""
        while lane.work.is_set():
            lane.work.clear()
            try:
                while await self.store.has_queued(lane.model):
                    await self._serve_one(lane)
                    logged = ""
            except ShuttingDown:
                self.shut_down.set()
                return
            except Exception as error:
                # Logged once: a disk may stay full for long.
                if repr(error) != logged:
                    log.exception("jobs.dispatch_failed", retry_seconds=self.retry_seconds)
                logged = repr(error)
                lane.work.set()
                await asyncio.sleep(self.retry_seconds)
        # Nothing is awaited between the last look at the event and this.
        del self._lanes[lane.model]

    async def _serve_one(self, lane: _Lane) -> None:
        async with AsyncExitStack() as held:
            try:
                slot = await self._acquire(lane, held)
            except ExecutorLost as lost:
                log.warning("jobs.worker_gone_before_start", cause=lost.cause)
                return
            if slot is not None:
                await self.start_next(lane.model, slot, held)

    async def _acquire(self, lane: _Lane, held: AsyncExitStack) -> Slot | None:
        """Return a slot, which `held` releases; None: no job is queued any more."""
        # No deadline, but it can be ended: waiting counts as demand, and keeps a failing load being retried.
        lane.acquiring = asyncio.timeout(None)
        try:
            async with lane.acquiring:
                slot = await held.enter_async_context(self.executor.slot(lane.model))
                lane.acquiring.reschedule(None)
                return slot
        except TimeoutError:
            if not lane.acquiring.expired():
                raise
            return None
        finally:
            lane.acquiring = None
