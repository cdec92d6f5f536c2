"""Processes without processes: the public surface of lifecycle.processes.Processes, with scripted delays, failures and
deaths, and the contract that it and the real one share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import ServiceError
from whisper_inference.execution import ExecutorLost
from whisper_inference.lifecycle.processes import LoadCancelled, MemoryUsage, Processes
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whisper_inference.worker.resident import NOTHING, Resident
from whispermodel.states import Depth


@dataclass(frozen=True, slots=True)
class LoadScript:
    """How one load goes: seconds of its three stages, and what it fails with at the end."""

    start: float = 0.0
    imports: float = 2.0
    loading: float = 0.1
    failure: Exception | None = None


@dataclass(frozen=True, slots=True)
class ReleaseScript:
    """How one release goes."""

    seconds: float = 0.05
    failure: Exception | None = None


class StandInWorker:
    """A worker that ends when it is killed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._because: ExecutorLost | None = None

    def kill(self, cause: str, detail: str) -> None:
        self._because = self._because or ExecutorLost(cause, detail)
        self.die()

    def die(self) -> None:
        if not self.exited.done():
            self.exited.set_result(9)

    def diagnosis(self) -> ExecutorLost:
        return self._because or ExecutorLost("crash", "killed by signal SIGKILL")


TINY = ModelSpec("tiny.en", engine="openai-whisper", cache_dir="/nowhere")


@dataclass
class StandInProcesses:
    """At most one zygote and one worker; what no real Processes could bear is noted in `violations`."""

    loads: Iterable[LoadScript] = ()
    releases: Iterable[ReleaseScript] = ()
    violations: list[str] = field(default_factory=list)
    on_zygote_lost: Callable[[], None] = lambda: None
    worker: StandInWorker | None = None
    started_loads: int = 0
    spec: ModelSpec = TINY
    _made_for: ModelSpec = TINY
    _zygote: asyncio.Future[None] | None = None
    _cancelled: bool = False
    _busy: str | None = None

    def __post_init__(self) -> None:
        self._loads = itertools.chain(self.loads, itertools.repeat(LoadScript()))
        self._releases = itertools.chain(self.releases, itertools.repeat(ReleaseScript()))

    def as_processes(self) -> Processes:
        return cast("Processes", self)

    @property
    def depth(self) -> Depth:
        return Depth.COLD if self._zygote is None else Depth.WARM

    @property
    def gpu_bytes(self) -> tuple[int, int]:
        return (0, 0)

    @property
    def are_outdated(self) -> bool:
        return (self._zygote is not None or self.worker is not None) and self._made_for != self.spec

    async def measure(self) -> MemoryUsage:
        held = Resident(proportional=500 * 2**20) if self.worker else NOTHING
        return MemoryUsage(api=Resident(proportional=50 * 2**20), worker=held)

    async def load(self, trigger: str) -> LoadReceipt:
        with self._alone("load"):
            self._cancelled = False
            self.started_loads += 1
            script = next(self._loads)
            await self.end_worker("crash", "exited earlier")
            if self.spec != self._made_for:
                await self.end_zygote()
            self._made_for = self.spec
            await self._import(script)
            if self._cancelled:
                raise LoadCancelled
            if self.worker is not None:
                self.violations.append("two workers")
            self.worker = worker = StandInWorker(1000 + self.started_loads)
            await asyncio.wait({worker.exited}, timeout=script.loading)
            if worker.exited.done():
                raise worker.diagnosis()
            if script.failure is not None:
                raise script.failure
            return LoadReceipt(device="cpu", compute_type="float32", trigger=trigger, ram_bytes=1)

    async def _import(self, script: LoadScript) -> None:
        if self._zygote is None:
            await asyncio.sleep(script.start)
            self._zygote = zygote = asyncio.get_running_loop().create_future()
            await asyncio.wait({zygote}, timeout=script.imports)
            if zygote.done():
                raise ExecutorLost("zygote", "the zygote process exited")

    def cancel_load(self, depth: Depth) -> None:
        self._cancelled = True
        if self.worker is not None:
            self.worker.kill("stopped", "the load was cancelled by an unload")
        elif depth is Depth.COLD and self._zygote is not None and not self._zygote.done():
            self._zygote.set_result(None)

    def why_worker_is_gone(self) -> ExecutorLost:
        return self.worker.diagnosis() if self.worker else ExecutorLost("stopped", "there is no worker")

    async def release(self, depth: Depth, *, device: str | None, reason: str, forced: bool) -> UnloadReceipt:
        with self._alone("release"):
            script = next(self._releases)
            await asyncio.sleep(script.seconds)
            if script.failure is not None:
                raise script.failure
            await self.end_worker("forced" if forced else "stopped", "ended by an unload")
            if depth is Depth.COLD:
                await self.end_zygote()
        return UnloadReceipt(device, depth, reason, script.seconds, 1, 0, fully_released=True)

    async def end_worker(self, cause: str, detail: str) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.kill(cause, detail)
            await asyncio.shield(worker.exited)

    async def end_zygote(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote is not None and not zygote.done():
            zygote.set_result(None)
        await asyncio.sleep(0)

    def lose_zygote(self) -> None:
        """The zygote is killed from outside, and with it its worker."""
        zygote, self._zygote = self._zygote, None
        if zygote is None or zygote.done():
            return
        zygote.set_result(None)
        if self.worker is not None:
            self.worker.die()
        asyncio.get_running_loop().call_soon(self.on_zygote_lost)

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if self._busy:
            self.violations.append(f"{what} during {self._busy}")
        self._busy = what
        try:
            yield
        finally:
            self._busy = None


class ProcessesContract:
    """What the owner relies on. Subclasses give the fixtures processes and broken (whose loads fail)."""

    @pytest.fixture
    def zygote_lost(self) -> asyncio.Event:
        """Set when the processes report a lost zygote: `processes` is made with it."""
        return asyncio.Event()

    def kill_worker(self, processes: Processes) -> None:
        raise NotImplementedError

    def kill_zygote(self, processes: Processes) -> None:
        raise NotImplementedError

    async def test_load_starts_a_worker_and_returns_a_receipt(self, processes: Processes) -> None:
        receipt = await processes.load("manual")
        assert (receipt.device, receipt.trigger) == ("cpu", "manual")
        assert receipt.ram_bytes > 0
        assert processes.worker is not None
        assert not processes.worker.exited.done()
        assert processes.depth is Depth.WARM

    @pytest.mark.parametrize("depth", Depth)
    async def test_release_ends_processes_down_to_its_depth(self, processes: Processes, depth: Depth) -> None:
        await processes.load("manual")
        worker = processes.worker
        assert worker is not None
        receipt = await processes.release(depth, device="cpu", reason="manual", forced=False)
        assert (receipt.depth, receipt.device, receipt.fully_released) == (depth, "cpu", True)
        assert receipt.freed_ram_bytes > 0
        assert worker.exited.done()
        assert processes.worker is None
        assert processes.depth is depth
        await processes.load("again")
        assert processes.worker is not None

    @pytest.mark.parametrize("depth", Depth)
    async def test_release_of_nothing_succeeds(self, processes: Processes, depth: Depth) -> None:
        receipt = await processes.release(depth, device=None, reason="manual", forced=False)
        assert receipt.fully_released
        assert processes.depth is Depth.COLD

    async def test_killed_worker_is_replaced_by_the_next_load(self, processes: Processes) -> None:
        await processes.load("manual")
        first = processes.worker
        assert first is not None
        self.kill_worker(processes)
        await asyncio.wait_for(asyncio.shield(first.exited), 10)
        assert processes.why_worker_is_gone().cause == "crash"
        await processes.load("again")
        assert processes.worker is not None
        assert processes.worker.pid != first.pid

    async def test_killed_zygote_ends_its_worker_and_is_reported(
        self, processes: Processes, zygote_lost: asyncio.Event
    ) -> None:
        await processes.load("manual")
        worker = processes.worker
        assert worker is not None
        self.kill_zygote(processes)
        await asyncio.wait_for(asyncio.shield(worker.exited), 10)
        await asyncio.wait_for(zygote_lost.wait(), 10)
        assert processes.depth is Depth.COLD
        await processes.load("again")
        assert processes.depth is Depth.WARM

    async def test_cancelled_load_raises_and_leaves_no_worker(self, processes: Processes) -> None:
        loading = asyncio.create_task(processes.load("manual"))
        while processes.worker is None:  # noqa: ASYNC110 (there is nothing to wait on)
            await asyncio.sleep(0)
        processes.cancel_load(Depth.COLD)
        with pytest.raises((LoadCancelled, ExecutorLost)):
            await asyncio.wait_for(loading, 10)
        await processes.release(Depth.COLD, device=None, reason="manual", forced=False)
        assert processes.worker is None
        assert processes.depth is Depth.COLD

    async def test_processes_of_another_model_are_outdated_until_the_next_load(self, processes: Processes) -> None:
        former = processes.spec
        await processes.load("manual")
        assert not processes.are_outdated
        processes.spec = replace(former, compute_type="float32")
        assert processes.are_outdated
        await processes.load("again")
        assert not processes.are_outdated

    async def test_failed_load_raises_its_cause(self, broken: Processes) -> None:
        with pytest.raises(ServiceError):
            await broken.load("manual")
        await broken.end_worker("stopped", "its load failed")
        assert broken.worker is None
