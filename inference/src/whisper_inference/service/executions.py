"""Runs jobs for gateways: each caller gets a slot, sends one order with its audio, and nothing of it stays here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from whisper_inference.errors import JobNotFound, MalformedRequest, ServiceError, ShuttingDown, TooManyWaiting
from whisper_inference.execution import (
    HEARTBEAT_SECONDS,
    ExecuteMessage,
    Executor,
    ExecutorLost,
    Finished,
    Granted,
    Heartbeat,
    JobInput,
    Lost,
    Refused,
    Run,
    RunEvent,
    Slot,
    Stopped,
)
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.jobs.dispatcher import JobMetrics
from whisper_inference.jobs.job import LOCAL, SpooledAudio
from whisper_inference.jobs.kill_rule import CANCEL_SECONDS, kill_if_unresponsive
from whisper_inference.jobs.limits import Limits
from whisper_inference.jobs.spool import Spool
from whisper_inference.model_control import ModelFacts
from whisper_inference.service.order import IncomingOrder
from whispermodel.states import State

_FAREWELL_SECONDS = 1.0
"""For the last message to a caller whose job the server's end interrupts."""
_SAMPLES_PER_SECOND = 16_000

log = structlog.stdlib.get_logger(__name__)


class CallerGone(Exception):
    """The gateway has closed the connection, or does not read what it is sent."""


class Caller(Protocol):
    """A gateway at the other end of a connection."""

    async def send(self, message: ExecuteMessage) -> None:
        """Send a message. Raises CallerGone."""
        ...

    async def receive(self) -> bytes | None:
        """Return what the caller sends next, None at the end of it. Raises CallerGone."""
        ...

    async def gone(self) -> None:
        """Wait until the caller is gone; only after `receive` has returned None."""
        ...


@dataclass(slots=True, eq=False)
class _Execution:
    """One caller's slot, from asking for it to its return."""

    caller: Caller
    """Who asked for it."""
    lent: bool = False
    """Whether the caller has its slot."""
    job: str = ""
    """The job's id; empty until its order is here."""
    slot: Slot | None = None
    """The executor, while the job runs."""
    stopping: bool = False
    """Whether the job has been cancelled."""


class Executions:
    """The jobs that are run for gateways."""

    def __init__(
        self,
        executor: Executor,
        spool: Spool,
        *,
        facts: Callable[[], ModelFacts],
        changes: Callable[[], AbstractContextManager[asyncio.Event]],
        limits: Limits,
        metrics: JobMetrics,
        cold_start: Callable[[str, Mapping[str, float]], None],
        cancel_seconds: float = CANCEL_SECONDS,
    ) -> None:
        """Run jobs on an executor. changes: lends an event that is set whenever the facts may have changed."""
        self._executor = executor
        self._spool = spool
        self._facts = facts
        self._changes = changes
        self._limits = limits
        self._metrics = metrics
        self._cold_start = cold_start
        self._cancel_seconds = cancel_seconds
        self._executions: list[_Execution] = []
        self._background = BackgroundTasks("executions.background_task_failed")
        self._stopping = asyncio.Event()

    @property
    def callers(self) -> int:
        """How many callers hold a slot or wait for one."""
        return len(self._executions)

    @property
    def waiting(self) -> int:
        """How many callers wait for a slot."""
        return sum(not execution.lent for execution in self._executions)

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that are being transcribed."""
        return tuple(execution.job for execution in self._executions if execution.slot)

    def stop_accepting(self) -> None:
        """Refuse new callers, and those that wait for a slot: the server is stopping."""
        self._stopping.set()

    def require_acceptable(self) -> None:
        """Refuse a caller that would not be served now. Raises ShuttingDown, TooManyWaiting."""
        if self._stopping.is_set():
            raise ShuttingDown
        if self.callers >= self._limits.max_waiting:
            raise TooManyWaiting(limit=self._limits.max_waiting, retry_after=self._facts().ready_in_seconds or 1)

    async def cancel(self, job: str) -> None:
        """Request that a job stops; its caller then gets Stopped. Raises JobNotFound."""
        found = [execution for execution in self._executions if execution.job == job]
        if not found:
            raise JobNotFound(job=job)
        for execution in found:
            await self._stop(execution)

    async def serve(self, caller: Caller) -> None:
        """Lend a slot to a caller and run the job that it sends."""
        execution = _Execution(caller)
        self._executions.append(execution)
        try:
            async with _heartbeats(caller):
                outcome = await self._outcome(execution)
            log.info("execution.ended", job=execution.job, outcome=type(outcome).__name__)
            await caller.send(outcome)
        except CallerGone:
            log.warning("execution.caller_gone", job=execution.job)
        except asyncio.CancelledError:
            await _say_farewell(caller)
            raise
        finally:
            self._executions.remove(execution)

    async def _outcome(self, execution: _Execution) -> Finished | Stopped | Refused | Lost:
        """Return the last message to the caller. Raises CallerGone."""
        try:
            return await self._execute(execution)
        except ServiceError as error:
            log.warning("execution.refused", job=execution.job, code=error.code, detail=str(error))
            return Refused.of(error, job=execution.job)
        except ExecutorLost as lost:
            log.warning("execution.worker_gone", job=execution.job, cause=lost.cause, error=lost.detail)
            return Lost(lost.cause, lost.detail)
        except CallerGone:
            raise
        except Exception as error:
            # The boundary of an execution: whatever failed here, the gateway may try another pod.
            log.exception("execution.failed", job=execution.job)
            return Lost("store", f"{type(error).__name__}: {error}")

    async def _execute(self, execution: _Execution) -> Finished | Stopped:
        """Lend the slot, receive the job and run it; when this returns, the slot is free and the audio deleted."""
        if self._stopping.is_set():
            # It has been set since the caller was let in.
            raise ShuttingDown
        found, asked_at = self._facts(), time.monotonic()
        async with AsyncExitStack() as stored, AsyncExitStack() as lent:
            slot = await self._acquire(lent, execution.caller)
            execution.lent, waited_seconds = True, time.monotonic() - asked_at
            await execution.caller.send(self._granted(found, waited_seconds))
            incoming = IncomingOrder(execution.caller.receive)
            order = await incoming.head()
            execution.job = order.job
            audio = await self._stored(execution, incoming)
            if audio is None:
                return Stopped(job=order.job)
            stored.push_async_callback(self._delete, audio)
            self._metrics.job_started(waited_seconds)
            return await self._run(execution, slot, order=self._run_of(order, audio))

    async def _acquire(self, stack: AsyncExitStack, caller: Caller) -> Slot:
        """Return a slot. Raises CallerGone, what makes a load fail meanwhile, and what the executor raises."""
        entering = asyncio.ensure_future(stack.enter_async_context(self._executor.slot(LOCAL)))
        obstacles = [
            asyncio.ensure_future(obstacle)
            for obstacle in (self._stop_of_the_server(), self._failed_load(), _early_data(caller))
        ]
        try:
            # No deadline: a download may take hours, and the caller gets heartbeats meanwhile.
            await asyncio.wait((entering, *obstacles), return_when=asyncio.FIRST_COMPLETED)
            if entering.done():
                return entering.result()
            raise next(obstacle.result() for obstacle in obstacles if obstacle.done())
        finally:
            for task in (entering, *obstacles):
                task.cancel()
            await asyncio.gather(entering, *obstacles, return_exceptions=True)

    def _granted(self, found: ModelFacts, waited_seconds: float) -> Granted:
        """Return the message that the slot is there, with the load that the caller waited for."""
        last = self._facts().last_load
        if found.state is State.LOADED or last is None or last.seconds_ago > waited_seconds:
            return Granted()
        receipt = last.receipt
        self._cold_start(found.depth, {**receipt.phases, "total": receipt.seconds})
        return Granted(load_seconds=receipt.seconds, phases=dict(receipt.phases))

    async def _stop_of_the_server(self) -> ServiceError:
        await self._stopping.wait()
        return ShuttingDown()

    async def _failed_load(self) -> ServiceError:
        """Wait until a load has failed; return why."""
        with self._changes() as changed:
            while (failure := self._facts().load_failure()) is None:
                await changed.wait()
                changed.clear()
        return failure

    async def _stored(self, execution: _Execution, incoming: IncomingOrder) -> SpooledAudio | None:
        """Store the audio, which no longer matters once the job is cancelled (None)."""
        async with self._spool.writer(self._limits.max_audio_bytes) as writer:
            async with aclosing(incoming.audio()) as chunks:
                async for chunk in chunks:
                    if execution.stopping:
                        return None
                    await writer.write(chunk)
            return await writer.finish()

    def _run_of(self, order: JobInput, audio: SpooledAudio) -> Run:
        return Run(
            job=order.job,
            options=order.options,
            resume=order.resume,
            max_audio_seconds=min(order.max_audio_seconds, self._limits.max_audio_seconds),
            audio=audio.key,
        )

    async def _run(self, execution: _Execution, slot: Slot, *, order: Run) -> Finished | Stopped:
        """Run the job, and cancel it if the caller leaves: the slot is not lent again before the worker has stopped."""
        if execution.stopping:
            return Stopped(job=order.job)
        began_at = time.monotonic()
        execution.slot = slot
        leaving = asyncio.create_task(self._stop_when_gone(execution))
        try:
            async with aclosing(slot.run(order)) as events:
                async for event in events:
                    if isinstance(event, Finished | Stopped):
                        self._count(event, order, seconds=time.monotonic() - began_at)
                        return event
                    await self._pass_on(execution, event)
        finally:
            execution.slot = None
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        raise ExecutorLost("crash", "the executor ended without saying why")

    async def _pass_on(self, execution: _Execution, event: RunEvent) -> None:
        try:
            await execution.caller.send(event)
        except CallerGone:
            await self._stop(execution)

    async def _stop_when_gone(self, execution: _Execution) -> None:
        await execution.caller.gone()
        await self._stop(execution)

    async def _stop(self, execution: _Execution) -> None:
        """Cancel the job. One that is still being received is not run."""
        if execution.stopping:
            return
        execution.stopping = True
        if (slot := execution.slot) is not None:
            log.info("execution.cancelled", job=execution.job)
            await slot.cancel(execution.job)
            is_running = lambda: execution.slot is slot  # noqa: E731
            self._background.start(kill_if_unresponsive(slot, is_running=is_running, seconds=self._cancel_seconds))

    def _count(self, end: Finished | Stopped, order: Run, *, seconds: float) -> None:
        if isinstance(end, Finished):
            # What an earlier attempt transcribed was counted where that attempt ran, or is lost.
            resumed = order.resume.next_start_sample / _SAMPLES_PER_SECOND if order.resume else 0.0
            self._metrics.job_succeeded(seconds=seconds, audio_seconds=max(0.0, end.seconds - resumed))

    async def _delete(self, audio: SpooledAudio) -> None:
        try:
            await self._spool.delete(audio)
        except Exception:
            # The next start deletes what no job owns. The job itself has ended, and its caller waits for the outcome.
            log.exception("execution.audio_not_deleted", key=audio.key)


async def _early_data(caller: Caller) -> Exception:
    """Wait for what must not come before the slot is granted; return the error."""
    try:
        await caller.receive()
    except CallerGone as gone:
        return gone
    return MalformedRequest(reason="the order was sent before the slot was granted")


@asynccontextmanager
async def _heartbeats(caller: Caller) -> AsyncGenerator[None]:
    beating = asyncio.create_task(_beat(caller))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def _beat(caller: Caller) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        await caller.send(Heartbeat())


async def _say_farewell(caller: Caller) -> None:
    with suppress(CallerGone, TimeoutError):
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await caller.send(Lost("stopped", "the server is stopping"))
