"""The one owner of the model's lifecycle: it takes commands and facts, applies the pure step, and carries out effects.

`_apply` is synchronous and runs on the event loop only, so no two changes can interleave; nothing else changes state.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

import structlog

from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import LoadFailed as LoadFailedError
from whisper_inference.errors import ServiceError, ShuttingDown, Superseded
from whisper_inference.execution import ExecutorLost
from whisper_inference.lifecycle import machine, transitions
from whisper_inference.lifecycle.idle_time import seconds_since_work
from whisper_inference.lifecycle.machine import Lifecycle, Outcome, Policy, Ticket
from whisper_inference.lifecycle.processes import LoadCancelled, MemoryUsage, Processes
from whisper_inference.model_control import Ended, LoadReceipt, UnloadReceipt
from whisper_inference.worker.supervisor import Worker
from whispermodel.states import Depth, State

_Receipt = TypeVar("_Receipt", LoadReceipt, UnloadReceipt)

log = structlog.stdlib.get_logger(__name__)


class Observer(Protocol):
    """Is notified after something has happened; must not raise."""

    def loaded(self, receipt: LoadReceipt) -> None: ...
    def load_failed(self, error: ServiceError, trigger: str) -> None: ...
    def unloaded(self, receipt: UnloadReceipt) -> None: ...
    def worker_died(self, cause: str) -> None: ...


class LifecycleOwner:
    """Owns state, zygote and worker from `start` to `stop`."""

    def __init__(
        self,
        make_processes: Callable[[Callable[[], None]], Processes],
        *,
        policy: Policy,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Own what make_processes returns; it is given the function to call when the zygote is lost."""
        self._processes = make_processes(self._note_lost_zygote)
        self._policy = policy
        self._observer = observer
        self._clock = clock
        self._lifecycle = Lifecycle(active_at=clock(), changed_at=clock())
        self._tickets = itertools.count(1)
        self._waiting: dict[Ticket, asyncio.Future[Outcome | None]] = {}
        self._loading: asyncio.Task[None] | None = None
        self._releasing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._listening: set[asyncio.Event] = set()
        self.load_receipt: LoadReceipt | None = None
        self.unload_receipt: UnloadReceipt | None = None
        self.failure: ServiceError | None = None
        self._last_load: tuple[LoadReceipt, float] | None = None
        self._last_unload: tuple[UnloadReceipt, float] | None = None

    @property
    def lifecycle(self) -> Lifecycle:
        """The state at this instant; it does not follow later changes."""
        return self._lifecycle

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last work ended; 0 while some is running."""
        return seconds_since_work(self._lifecycle, now=self._clock())

    @property
    def work_began_seconds(self) -> float | None:
        """Seconds since the running work, or else the last one, started executing; None: there was none yet."""
        began_at = self._lifecycle.began_at
        return None if began_at is None else max(0.0, self._clock() - began_at)

    @property
    def last_load(self) -> Ended[LoadReceipt] | None:
        """The last load that succeeded."""
        return self._with_age(self._last_load)

    @property
    def last_unload(self) -> Ended[UnloadReceipt] | None:
        """The last unload that released a model."""
        return self._with_age(self._last_unload)

    @property
    def spec(self) -> ModelSpec:
        """The model that the next load brings."""
        return self._processes.spec

    @property
    def gpu_bytes(self) -> tuple[int, int]:
        """Bytes (allocated, reserved) on the GPU, as the worker reported last."""
        return self._processes.gpu_bytes

    @property
    def holds_former_model(self) -> bool:
        """Whether a process of the model before `change_model` is still there."""
        return self._processes.are_outdated

    @property
    def retry_after(self) -> float:
        """Seconds until the next attempt to load, after one has failed."""
        return max(0.0, self._lifecycle.retry_at - self._clock())

    async def load(self, trigger: str) -> LoadReceipt:
        """Load the model. Raises what made the load fail, or Superseded.

        No deadline: a download may take hours, and each caller decides how long it waits.
        """
        outcome = await self._ask(lambda ticket: machine.Load(ticket, trigger))
        if outcome is Outcome.LOAD_FAILED:
            raise self.failure or ShuttingDown()
        if outcome is Outcome.SUPERSEDED or self.load_receipt is None:
            raise Superseded(command="load", by="unload")
        return self.load_receipt

    async def unload(self, depth: Depth, *, reason: str, force: bool) -> UnloadReceipt | None:
        """Unload the model, after the running job unless force; None: nothing was loaded.

        Raises Superseded.
        """
        outcome = await self._ask(lambda ticket: machine.Unload(ticket, depth, reason, force))
        if outcome is Outcome.SUPERSEDED:
            raise Superseded(command="unload", by="load")
        return self.unload_receipt if outcome is Outcome.UNLOADED else None

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[Worker]:
        """Lend the worker to one job, with the model loaded; keeps waiting when loads fail."""
        if self._stopped:
            raise ShuttingDown
        ticket = next(self._tickets)
        granted = self._expect_answer(ticket)
        try:
            self._apply(machine.Acquire(ticket))
            await granted
            worker = self._processes.worker
            if worker is None:
                raise ExecutorLost("crash", "the worker exited before the job began")
            yield worker
        finally:
            self._waiting.pop(ticket, None)
            self._apply(machine.Finish(ticket))

    @asynccontextmanager
    async def expected_work(self) -> AsyncGenerator[Callable[[], None]]:
        """Load the model while the work for it is still being uploaded.

        An exception in the block, or a call of what is lent, means that no work came: then the model returns to its
        former state, and the idle time continues.
        """
        ticket = next(self._tickets)

        def withdraw() -> None:
            self._apply(machine.Withdraw(ticket))

        self._apply(machine.Expect(ticket))
        try:
            yield withdraw
        except BaseException:
            withdraw()
            raise
        self._apply(machine.Finish(ticket))

    async def measure(self) -> MemoryUsage:
        """Return what the processes hold now."""
        return await self._processes.measure()

    def change_model(self, spec: ModelSpec) -> None:
        """Make the next load bring another model; the caller unloads the former one while `holds_former_model`."""
        self._processes.spec = spec
        self.failure = None
        self._lifecycle = transitions.without_failures(self._lifecycle)
        self._apply(machine.Tick())

    @contextmanager
    def changes(self) -> Generator[asyncio.Event]:
        """Lend an event that is set whenever the lifecycle may have changed; its holder clears it."""
        changed = asyncio.Event()
        self._listening.add(changed)
        try:
            yield changed
        finally:
            self._listening.discard(changed)

    async def stop(self) -> None:
        """End all processes; callers that still wait get ShuttingDown."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._loading is not None and not self._loading.done():
            self._processes.cancel_load(Depth.COLD)
        await asyncio.gather(
            *(task for task in (self._loading, self._releasing) if task is not None), return_exceptions=True
        )
        await self._end_processes("the server is shutting down")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ShuttingDown())

    async def _ask(self, command: Callable[[Ticket], machine.Event]) -> Outcome:
        if self._stopped:
            raise ShuttingDown
        ticket = next(self._tickets)
        answer = self._expect_answer(ticket)
        try:
            self._apply(command(ticket))
            outcome = await answer
        finally:
            self._waiting.pop(ticket, None)
        assert outcome is not None
        return outcome

    def _with_age(self, ended: tuple[_Receipt, float] | None) -> Ended[_Receipt] | None:
        return Ended(ended[0], max(0.0, self._clock() - ended[1])) if ended else None

    def _expect_answer(self, ticket: Ticket) -> asyncio.Future[Outcome | None]:
        answer: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = answer
        return answer

    def _apply(self, event: machine.Event) -> None:
        if self._stopped:
            return
        before = self._lifecycle.state
        now = self._clock()
        self._lifecycle, effects = transitions.step(self._lifecycle, event, now=now, policy=self._policy)
        if self._lifecycle.state is not before:
            log.info("model.state", state=self._lifecycle.state, before=before, on=type(event).__name__)
        for effect in effects:
            self._carry_out(effect)
        self._set_timer(now)
        for changed in self._listening:
            changed.set()

    def _carry_out(self, effect: machine.Effect) -> None:
        match effect:
            case machine.StartLoad(trigger=trigger):
                self._loading = asyncio.create_task(self._load(trigger))
            case machine.StartRelease():
                self._releasing = asyncio.create_task(self._release(effect))
            case machine.Grant(ticket=ticket):
                self._answer(ticket, None)
            case machine.Settle(ticket=ticket, outcome=outcome):
                self._answer(ticket, outcome)

    def _answer(self, ticket: Ticket, outcome: Outcome | None) -> None:
        answer = self._waiting.get(ticket)
        if answer is not None and not answer.done():
            answer.set_result(outcome)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = transitions.next_deadline(self._lifecycle, self._policy)
        self._timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - now), self._apply, machine.Tick())

    async def _load(self, trigger: str) -> None:
        try:
            receipt = await self._processes.load(trigger)
        except LoadCancelled:
            return
        except ServiceError as error:
            await self._note_failed_load(error, trigger)
        except ExecutorLost as gone:
            await self._note_failed_load(LoadFailedError(cause=gone.detail), trigger)
        except Exception as error:
            # The boundary of the load: whatever failed, callers must get an answer and the owner must carry on.
            log.exception("model.load_failed_unexpectedly")
            await self._note_failed_load(LoadFailedError(cause=f"{type(error).__name__}: {error}"), trigger)
        else:
            self.load_receipt, self.failure = receipt, None
            self._last_load = receipt, self._clock()
            self._observer.loaded(receipt)
            self._apply(machine.Loaded())
            if self._processes.worker is not None:
                # Registered before any job's callback: the state changes before a job learns of the death.
                self._processes.worker.exited.add_done_callback(self._note_death)

    async def _note_failed_load(self, error: ServiceError, trigger: str) -> None:
        try:
            await self._processes.end_worker("stopped", "its load failed")
        except Exception:
            log.exception("worker.not_ended")
        # A load that the server's end interrupted has not failed.
        if self._lifecycle.state is State.LOADING and not self._stopped:
            self.failure = error
            self._observer.load_failed(error, trigger)
        self._apply(machine.LoadFailed(self._processes.depth))

    def _note_lost_zygote(self) -> None:
        self._apply(machine.ZygoteDied())

    def _note_death(self, exited: asyncio.Future[int]) -> None:
        """Record that the worker ended by itself."""
        if exited.cancelled() or self._lifecycle.state is not State.LOADED or self._stopped:
            return
        gone = self._processes.why_worker_is_gone()
        log.warning("worker.died", cause=gone.cause, error=gone.detail)
        self._observer.worker_died(gone.cause)
        self._apply(machine.WorkerDied(self._processes.depth))

    async def _release(self, effect: machine.StartRelease) -> None:
        loaded = self.load_receipt if self._processes.worker else None
        if self._loading is not None and not self._loading.done():
            before = self.load_receipt
            self._processes.cancel_load(effect.depth)
            await asyncio.gather(self._loading, return_exceptions=True)
            # Cancelled in time, there was no model yet.
            loaded = self.load_receipt if self.load_receipt is not before else None
        device = loaded.device if loaded else None
        try:
            receipt = await self._processes.release(
                effect.depth, device=device, reason=effect.reason, forced=self._lifecycle.running is not None
            )
        except Exception:
            # The boundary of the release: whatever failed, callers must get an answer and the owner must carry on.
            log.exception("model.release_failed")
            await self._end_processes("their release failed")
            receipt = UnloadReceipt(device, effect.depth, effect.reason, 0.0, 0, 0, fully_released=False)
        self.unload_receipt = receipt
        if receipt.device is not None:
            self._last_unload = receipt, self._clock()
        self._observer.unloaded(receipt)
        log.info("model.unloaded", **_figures(receipt))
        self._apply(machine.Released(self._processes.depth))

    async def _end_processes(self, detail: str) -> None:
        """End all processes; one that does not end is logged and not waited for."""
        try:
            try:
                await self._processes.end_worker("stopped", detail)
            finally:
                await self._processes.end_zygote()
        except Exception:
            log.exception("model.processes_not_ended")


def _figures(receipt: UnloadReceipt) -> dict[str, object]:
    return {
        "depth": receipt.depth,
        "reason": receipt.reason,
        "seconds": round(receipt.seconds, 3),
        "freed_ram_bytes": receipt.freed_ram_bytes,
        "freed_gpu_bytes": receipt.freed_gpu_bytes,
    }
