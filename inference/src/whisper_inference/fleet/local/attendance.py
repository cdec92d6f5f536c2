"""Attends to the server of one model: starts and ends it, calls it to load and unload, and keeps its reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from pathlib import Path
from uuid import uuid4

import structlog

from whisper_cluster.errors import CallFailed, PodUnreachable
from whisper_cluster.pods import Address, Http, PodClient
from whisper_inference.fleet.local.server_process import ServerProcess, running_server
from whisper_inference.jobs.background import BackgroundTasks
from whispermodel.key import Key
from whispermodel.states import Depth, State
from whispermodel.wire import ModelStatus

log = structlog.stdlib.get_logger(__name__)

_REPORT_SECONDS = 5.0
"""Between two reports of a server that nothing happens to: its memory moves, and it may hang."""
_BUSY_REPORT_SECONDS = 1.0
"""The same while it loads, unloads or works: a job may load the model before it is ordered to."""
_HUNG_SECONDS = 60.0
"""A server that has not responded for this long is killed, as a kubelet would."""
_REAPED_SECONDS = 1.0
"""For a process whose connection has broken to be reaped."""
_BACK_OFF_SECONDS = (0.5, 60.0)
"""After the first failed start or load, and at most; doubled each time."""


class Phase(Enum):
    """How far a server has come."""

    ABSENT = auto()
    STARTING = auto()
    UP = auto()
    ENDING = auto()


@dataclass(slots=True)
class BackOff:
    """When something that failed is tried again."""

    failures: int = 0
    """In a row."""
    reason: str | None = None
    """Why the last attempt failed; None: it did not."""
    ends_at: float = 0.0
    """When the next attempt may be made (monotonic)."""

    def note_failure(self, reason: str) -> None:
        """Wait twice as long as last time."""
        first, longest = _BACK_OFF_SECONDS
        self.ends_at = time.monotonic() + min(first * 2**self.failures, longest)
        self.failures, self.reason = self.failures + 1, reason

    def note_success(self) -> None:
        """Start anew."""
        self.failures, self.reason, self.ends_at = 0, None, 0.0

    @property
    def problem(self) -> str | None:
        """What to report: nobody need hear of a first failure, which may be a crash that a new attempt makes good."""
        return self.reason if self.failures > 1 else None

    @property
    def left(self) -> float:
        """How many seconds are left of it."""
        return max(0.0, self.ends_at - time.monotonic())


@dataclass(slots=True, kw_only=True)
class Attendance:
    """One model's server, whether it runs or not; everything about it is decided elsewhere."""

    key: Key
    """Which model."""
    folder: Path
    """The server's data."""
    http: Http
    """How it is reached."""
    on_change: Callable[[], None]
    """Called when anything below has changed."""
    phase: Phase = Phase.ABSENT
    """How far the server has come."""
    uid: str = field(default_factory=lambda: uuid4().hex)
    """Names the server until it is ended on purpose, as a pod outlives the crash of its container."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """What it was started with."""
    address: Address | None = None
    """Where it listens, while it is up."""
    report: ModelStatus | None = None
    """What it reported last."""
    reported_at: float = 0.0
    """When (monotonic)."""
    calling: State | None = None
    """What a call in progress brings the model into."""
    holds: int = 0
    """What its processes hold, in bytes, as measured last."""
    gpu: tuple[int, int] = (0, 0)
    """Bytes of GPU memory: used, and reserved by the worker."""
    back_off: BackOff = field(default_factory=BackOff)
    """After failed starts and loads."""
    _life: asyncio.Task[None] | None = None
    _call: asyncio.Task[None] | None = None
    _ending: asyncio.Event = field(default_factory=asyncio.Event)
    _poked: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: BackgroundTasks = field(default_factory=lambda: BackgroundTasks("server.task_failed"))

    @property
    def state(self) -> State:
        """The state of the model, as an operator would see it."""
        match self.phase:
            case Phase.ABSENT:
                # After the pause it is at rest: the next request is another attempt.
                return State.FAILED if self.back_off.problem and self.back_off.left else State.ZERO
            case Phase.STARTING:
                return State.STARTING
            case Phase.ENDING:
                return State.UNLOADING
            case Phase.UP:
                return self.calling or (self.report.state if self.report else State.STARTING)

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the server, which is absent."""
        self.environment = environment
        self.phase = Phase.STARTING
        self._ending.clear()
        self._life = self._tasks.start(self._live(environment))

    def end(self) -> None:
        """End the server; nobody may be sending it work."""
        self.phase, self.uid = Phase.ENDING, uuid4().hex
        self._ending.set()

    async def ended(self) -> None:
        """End the server and wait until it is reaped."""
        if self._life is not None and not self._life.done():
            self.end()
            await asyncio.wait({self._life})
        await self._tasks.cancel()

    def load(self) -> None:
        """Load the model."""
        self._start_call(State.LOADING, lambda pods, address: pods.load(address))

    def unload(self, depth: Depth) -> None:
        """Unload the model, or end what an unload left behind; cancels a load in progress."""
        holds_model = self.state in (State.LOADING, State.LOADED)
        into = State.UNLOADING if holds_model else State.UNLOADED
        self._start_call(into, lambda pods, address: pods.unload(address, depth=depth))

    def poke(self) -> None:
        """Have the server report now: a job has begun or ended."""
        self._poked.set()

    def _start_call(self, into: State, call: Callable[[PodClient, Address], Awaitable[object]]) -> None:
        if self._call is not None:
            self._call.cancel()
        assert self.address is not None
        self.calling = into
        self._call = self._tasks.start(self._run_call(partial(call, PodClient(self.http), self.address), into))

    async def _run_call(self, call: Callable[[], Awaitable[object]], into: State) -> None:
        try:
            await call()
            if into is State.LOADING:
                self.back_off.note_success()
        except CallFailed as error:
            log.warning("server.call_failed", whispermodel=str(self.key), into=into, reason=str(error))
            if into is State.LOADING:
                self.back_off.note_failure(str(error))
        # A later call may have replaced this one, which then was cancelled and does not come here.
        if self.address is not None:
            await self._look(self.address)
        self.calling = None
        self.on_change()

    async def _live(self, environment: Mapping[str, str]) -> None:
        try:
            async with running_server(environment, self.folder, name=str(self.key)) as server:
                await self._serve(server)
        except (OSError, TimeoutError) as error:
            self._note_crash(str(error) or "it did not respond in time")
        finally:
            if self._call is not None:
                self._call.cancel()
            self.phase, self.address, self.report, self.calling = Phase.ABSENT, None, None, None
            self.holds, self.gpu = 0, (0, 0)
            self.on_change()

    async def _serve(self, server: ServerProcess) -> None:
        """Return when the server has exited or is to be ended. Raises OSError, TimeoutError."""
        ending = asyncio.create_task(self._ending.wait())
        following = asyncio.create_task(self._follow(server))
        try:
            await asyncio.wait({ending, server.exited, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                # A connection breaks a moment before the process is reaped, whose status says more.
                await asyncio.wait({server.exited}, timeout=_REAPED_SECONDS)
            if server.exited.done() and not self._ending.is_set():
                self._note_crash(f"it exited with status {server.exited.result()}")
            elif following.done():
                following.result()
        finally:
            for task in (ending, following):
                task.cancel()
            await asyncio.gather(ending, following, return_exceptions=True)

    def _note_crash(self, reason: str) -> None:
        log.warning("server.ended", whispermodel=str(self.key), reason=reason)
        self.back_off.note_failure(f"The model's server failed: {reason}; the gateway's log has what it wrote.")

    async def _follow(self, server: ServerProcess) -> None:
        """Note when the server is up, and then what it reports. Raises OSError, TimeoutError if it hangs."""
        await server.respond(self.http)
        log.info("server.up", whispermodel=str(self.key), pid=server.process.pid)
        while True:
            self._poked.clear()
            await self._look(server.address)
            if self.phase is Phase.STARTING and self.report is not None:
                # Only now: whoever sees the address must see a state as well.
                self.phase, self.address = Phase.UP, server.address
                if self.report.state is State.LOADING:
                    # Joins the load that came with the start, so that its end is known at once.
                    self.load()
                self.on_change()
            if self.report is not None and time.monotonic() - self.reported_at > _HUNG_SECONDS:
                raise TimeoutError(f"it has not responded for {_HUNG_SECONDS:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._report_seconds()):
                    await self._poked.wait()

    def _report_seconds(self) -> float:
        report = self.report
        moving = report is None or report.in_flight or report.state in (State.LOADING, State.UNLOADING)
        return _BUSY_REPORT_SECONDS if moving else _REPORT_SECONDS

    async def _look(self, address: Address) -> None:
        """Take a report, with the memory that goes with it."""
        pods = PodClient(self.http)
        try:
            report = await pods.report(address)
            memory = await pods.memory(address)
        except (PodUnreachable, CallFailed) as error:
            if self.report is not None and not self._ending.is_set():
                log.warning("server.not_responding", whispermodel=str(self.key), reason=str(error))
            return
        before, self.report, self.reported_at = self.report, report, time.monotonic()
        self.holds, self.gpu = memory.resident, (memory.gpu, memory.gpu_reserved)
        if report.state is State.LOADED:
            self.back_off.note_success()
        if before is None or _news(before) != _news(report):
            self.on_change()


def _news(report: ModelStatus) -> tuple[object, ...]:
    return report.state, report.depth, report.failure, report.in_flight
