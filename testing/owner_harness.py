"""An owner of the lifecycle over stand-in processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from testing.processes_stand_in import LoadScript, ReleaseScript, StandInProcesses, StandInWorker
from whisper_inference.errors import CheckpointMissing, ServiceError
from whisper_inference.execution import ExecutorLost
from whisper_inference.lifecycle.machine import Policy
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import Processes
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whispermodel.states import Depth, State

MISSING = CheckpointMissing(path="/nowhere", hint="mount it")


@dataclass
class RecordingObserver:
    """An Observer that records what it is notified of."""

    events: list[object] = field(default_factory=list)

    def loaded(self, receipt: LoadReceipt) -> None:
        self.events.append(receipt)

    def load_failed(self, error: ServiceError, trigger: str) -> None:
        self.events.append(error)

    def unloaded(self, receipt: UnloadReceipt) -> None:
        self.events.append(receipt)

    def worker_died(self, cause: str) -> None:
        self.events.append(cause)


class OwnerHarness:
    """An owner over stand-in processes, and the calls that the server makes."""

    def __init__(
        self,
        *,
        loads: tuple[LoadScript, ...] = (),
        releases: tuple[ReleaseScript, ...] = (),
        unload_after: float | None = None,
    ) -> None:
        self.observer = RecordingObserver()
        self.loop = asyncio.get_running_loop()
        self.owner = LifecycleOwner(
            lambda on_zygote_lost: self._make_processes(loads, releases, on_zygote_lost),
            policy=Policy(unload_after=unload_after),
            observer=self.observer,
            clock=self.loop.time,
        )
        self.finished_jobs = 0

    def _make_processes(
        self, loads: tuple[LoadScript, ...], releases: tuple[ReleaseScript, ...], on_zygote_lost: Callable[[], None]
    ) -> Processes:
        self.processes = StandInProcesses(loads, releases, on_zygote_lost=on_zygote_lost)
        return self.processes.as_processes()

    @property
    def state(self) -> State:
        return self.owner.lifecycle.state

    async def job(self, seconds: float = 1.0) -> int:
        """Run a job as the dispatcher does, again if its worker is lost; return the number of attempts."""
        attempts = 0
        while True:
            attempts += 1
            with suppress(ExecutorLost):
                async with self.owner.worker() as lent:
                    worker = cast("StandInWorker", lent)
                    await asyncio.wait({worker.exited}, timeout=seconds)
                    if not worker.exited.done():
                        self.finished_jobs += 1
                        return attempts

    def unload(self, depth: Depth = Depth.COLD, *, force: bool = False) -> asyncio.Task[UnloadReceipt | None]:
        return asyncio.create_task(self.owner.unload(depth, reason="manual", force=force))

    def load(self) -> asyncio.Task[LoadReceipt]:
        return asyncio.create_task(self.owner.load("manual"))
