"""Runs jobs on the pods of their models: wakes a model, waits for a pod, and holds it for one job at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from whisper_cluster.errors import CallFailed, PodRefused
from whisper_cluster.objects import Pod
from whisper_inference.errors import ServiceError, ShuttingDown
from whisper_inference.execution import ExecutorLost, Run, RunEvent, Slot
from whisper_inference.fleet.demand import Demand
from whisper_inference.fleet.fleet import Fleet
from whisper_inference.fleet.metrics import RetryCause
from whisper_inference.fleet.pod_pool import PodPool
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.model_control import LoadOutcome, LoadOutcomes
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)

_LEFT_ALONE_SECONDS = 0.5
"""How long a pod that refused or did not respond is left alone: another may be free, and it may be terminating."""
_LOAD_RETRY_SECONDS = 5.0
"""The same after a failed load, if the pod does not say when it retries."""

OpenSlot = Callable[[Pod], AbstractAsyncContextManager[Slot]]
"""Lends a pod's slot once its model is loaded. Raises CallFailed for "try another pod", and what made a load fail."""


async def nothing_to_prepare(_model: Key) -> None:
    """Do nothing."""


Prepare = Callable[[Key], Coroutine[object, object, object]]
"""Fetches what is needed beside a model's pod. Raises CallFailed: then `open_slot` tries again."""


class FleetMetrics(Protocol):
    """Counts what happens between gateway and pods."""

    def retried(self, cause: RetryCause) -> None: ...
    def forwarded(self, seconds: float) -> None: ...


@dataclass(slots=True, kw_only=True)
class FleetExecutor:
    """Lends the slots of all pods."""

    fleet: Fleet
    """Where the pods are."""
    pool: PodPool
    """Which are free."""
    demand: Demand
    """Wakes the models."""
    open_slot: OpenSlot
    """Connects to a pod."""
    loads: LoadOutcomes
    """Where loads that failed in a pod are reported."""
    metrics: FleetMetrics
    """Where retries are counted."""
    prepare: Prepare = nothing_to_prepare
    """Called when a model is needed, while its pod is still awaited: what `open_slot` needs beside the pod."""
    _preparing: BackgroundTasks = field(
        default_factory=lambda: BackgroundTasks("fleet.not_prepared", expected=CallFailed)
    )
    _held: dict[Slot, Key] = field(default_factory=dict[Slot, Key])
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def slot(self, model: Key) -> AsyncGenerator[Slot]:
        """Lend the slot of a pod; while it is waited for and held, there is demand for the model."""
        with self.demand.hold(model):
            self._preparing.start(self.prepare(model))
            async with AsyncExitStack() as held:
                slot = await self._granted(model, held)
                self._held[slot] = model
                try:
                    yield slot
                finally:
                    del self._held[slot]

    def force(self, model: Key) -> None:
        """Put the running jobs of a model back into the queue."""
        for slot in [slot for slot, its_model in self._held.items() if its_model == model]:
            slot.kill("forced", "ended by an unload")

    def stop(self) -> None:
        """End all work: jobs go back to the queue, and nobody waits for a pod any more."""
        self._stopped.set()
        for slot in tuple(self._held):
            slot.kill("stopped", "the gateway is shutting down")

    async def _granted(self, model: Key, held: AsyncExitStack) -> Slot:
        """Return a slot of the first pod that grants one. No deadline: the job waits as long as it is queued."""
        with self.fleet.changes(model) as changed:
            while True:
                changed.clear()
                pod = self.pool.free(model)
                slot = await self._try(model, pod, held) if pod is not None else None
                if slot is not None:
                    return slot
                if pod is None:
                    await self._wait(changed, self.pool.next_free_in(model))

    async def _wait(self, changed: asyncio.Event, seconds: float | None) -> None:
        """Wait for a change, at most so long. Raises ShuttingDown."""
        waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self._stopped.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._stopped.is_set():
            raise ShuttingDown

    async def _try(self, model: Key, pod: Pod, held: AsyncExitStack) -> Slot | None:
        """Return the pod's slot; None: it does not grant one, and is left alone for a while."""
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        async with AsyncExitStack() as trying:
            trying.enter_context(self.pool.lent(model, pod))
            try:
                slot = await trying.enter_async_context(self.open_slot(pod))
            except CallFailed as error:
                log.warning("pod.not_used", pod=name, reason=str(error))
                refused = isinstance(error, PodRefused)
                self.metrics.retried(RetryCause.REFUSED if refused else RetryCause.UNREACHABLE)
                self.pool.block(pod, seconds=_LEFT_ALONE_SECONDS)
                return None
            except ServiceError as error:
                log.warning("pod.load_failed", pod=name, code=error.code, detail=str(error))
                self.loads.put_nowait(LoadOutcome(model, error))
                self.pool.block(pod, seconds=error.retry_after or _LOAD_RETRY_SECONDS)
                return None
            self.pool.unblock(pod)
            self.demand.note_served(model)
            held.push_async_exit(trying.pop_all())
            return _PodOfFleet(slot, self, model, pod)


class _PodOfFleet:
    """A pod's slot, which tells a pod that was taken away from one that failed."""

    def __init__(self, slot: Slot, executor: FleetExecutor, model: Key, pod: Pod) -> None:
        self._slot = slot
        self._executor = executor
        self._model = model
        self._pod = pod

    async def run(self, order: Run) -> AsyncGenerator[RunEvent]:
        began, first = time.perf_counter(), True
        try:
            async with aclosing(self._slot.run(order)) as events:
                async for event in events:
                    if first:
                        self._executor.metrics.forwarded(time.perf_counter() - began)
                        first = False
                    yield event
        except ExecutorLost as lost:
            raise await self._explained(lost) from None

    async def cancel(self, job: str) -> None:
        await self._slot.cancel(job)

    def kill(self, cause: str, detail: str) -> None:
        self._slot.kill(cause, detail)

    async def _explained(self, lost: ExecutorLost) -> ExecutorLost:
        """Return the loss with its cause: the job is not to blame for a pod that was deleted or evicted."""
        if lost.cause != "unreachable":
            return lost
        self._executor.metrics.retried(RetryCause.LOST)
        uid = self._pod.metadata.uid
        with suppress(TimeoutError), self._executor.fleet.changes(self._model) as changed:
            # The watch may be behind the connection.
            async with asyncio.timeout(1):
                while self._executor.fleet.is_staying(self._model, uid):
                    changed.clear()
                    await changed.wait()
        if self._executor.fleet.is_staying(self._model, uid):
            return lost
        return ExecutorLost("leaving", f"pod {self._pod.metadata.name} was terminated")
