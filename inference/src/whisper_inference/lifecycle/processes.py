"""The processes behind one model: starts them for a load, ends them for an unload, measures their memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from whisper_inference.engines.base import ModelSpec
from whisper_inference.execution import ExecutorLost
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whisper_inference.worker.resident import NOTHING, Resident, resident_of, trim_idle_memory
from whisper_inference.worker.supervisor import REAP_SECONDS, Liveness, Worker, Zygote
from whispermodel.states import Depth

_GPU_TOLERANCE = 0.9
"""Share of a worker's GPU bytes whose return counts as released: other users of the GPU change meanwhile."""
_CANCELLED_BY_UNLOAD = "the load was cancelled by an unload"


class Gpu(Protocol):
    """What can be asked of the GPU without opening CUDA."""

    def used_bytes(self) -> int:
        """Return the bytes in use on the device, by any process; 0 without a GPU."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Memory of the processes at one instant."""

    api: Resident
    """The API process."""
    zygote: Resident = NOTHING
    """The zygote."""
    worker: Resident = NOTHING
    """The worker."""
    gpu_used_bytes: int = 0
    """Used on the GPU, by any process."""

    @property
    def tree(self) -> Resident:
        """The sum over the processes."""
        return self.api + self.zygote + self.worker


class LoadCancelled(Exception):
    """An unload came while the model was loading."""


class Processes:
    """At most one zygote and one worker. The owner calls load and release in turn, never at once.

    spec: what the next load brings; it may change at any time. on_zygote_lost: called when the zygote ended by itself.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        gpu: Gpu,
        liveness: Liveness,
        on_zygote_lost: Callable[[], None],
        zygote: Zygote | None = None,
    ) -> None:
        self.spec = self._made_for = spec
        self._gpu = gpu
        self._liveness = liveness
        self._on_zygote_lost = on_zygote_lost
        self._zygote = zygote
        self._watching = asyncio.create_task(self._watch(zygote)) if zygote else None
        self._cancelled = False
        self._before = MemoryUsage(api=NOTHING)
        self._gpu_growth = 0
        self.worker: Worker | None = None

    @property
    def depth(self) -> Depth:
        """Whether the zygote is there."""
        return Depth.COLD if self._zygote is None else Depth.WARM

    @property
    def are_outdated(self) -> bool:
        """Whether a running process was started for another model than the next load brings."""
        return (self._zygote is not None or self.worker is not None) and self._made_for != self.spec

    @property
    def gpu_bytes(self) -> tuple[int, int]:
        """Bytes (allocated, reserved) on the GPU, as the worker reported last.

        CTranslate2 does not report its allocator: then by how much the device's used bytes grew with the load.
        """
        worker = self.worker
        if worker is None or worker.exited.done():
            return 0, 0
        allocated, reserved = worker.gpu_bytes
        return allocated or self._gpu_growth, reserved or self._gpu_growth

    async def load(self, trigger: str) -> LoadReceipt:
        """Load the model. Raises ServiceError, LoadCancelled."""
        self._cancelled = False
        spec = self.spec
        await self.end_worker("crash", "exited earlier")
        if (spec.engine, spec.size) != (self._made_for.engine, self._made_for.size):
            await self.end_zygote()
        self._made_for = spec
        started = time.perf_counter()
        phases: dict[str, float] = {}
        measuring = asyncio.create_task(self.measure())
        zygote = await self._imported_zygote(phases)
        self._before = await measuring
        if self._cancelled:
            raise LoadCancelled
        self.worker = worker = await zygote.fork(spec)
        if self._cancelled:
            worker.kill("stopped", _CANCELLED_BY_UNLOAD)
        ready = await worker.ready()
        seconds = time.perf_counter() - started
        phases |= worker.phases
        after = await self.measure()
        grown = after.gpu_used_bytes - self._before.gpu_used_bytes
        self._gpu_growth = max(0, grown) if ready.device == "cuda" else 0
        return LoadReceipt(
            device=ready.device,
            compute_type=ready.compute_type,
            trigger=trigger,
            seconds=seconds,
            phases=phases,
            ram_bytes=max(0, after.tree.proportional - self._before.tree.proportional),
            gpu_bytes=ready.gpu_allocated_bytes or self._gpu_growth,
        )

    def cancel_load(self, depth: Depth) -> None:
        """End a load in progress; its `load` then raises."""
        self._cancelled = True
        if self.worker is not None:
            self.worker.kill("stopped", _CANCELLED_BY_UNLOAD)
        elif depth is Depth.COLD and self._zygote is not None:
            self._stop_watching()
            self._zygote.kill()

    def why_worker_is_gone(self) -> ExecutorLost:
        """Return the cause of the end of a worker that has exited."""
        return self.worker.diagnosis() if self.worker else ExecutorLost("stopped", "there is no worker")

    async def release(self, depth: Depth, *, device: str | None, reason: str, forced: bool) -> UnloadReceipt:
        """End the worker, and with depth cold the zygote; return once they are reaped and measured."""
        started = time.perf_counter()
        before = await self.measure()
        reserved = self.gpu_bytes[1]
        await self.end_worker("forced" if forced else "stopped", "ended by an unload")
        if depth is Depth.COLD:
            await self.end_zygote()
            await asyncio.to_thread(trim_idle_memory)
        after = await self.measure()
        freed_gpu = max(0, before.gpu_used_bytes - after.gpu_used_bytes)
        return UnloadReceipt(
            device=device,
            depth=depth,
            reason=reason,
            seconds=time.perf_counter() - started,
            freed_ram_bytes=max(0, before.tree.proportional - after.tree.proportional),
            freed_gpu_bytes=freed_gpu,
            fully_released=freed_gpu >= reserved * _GPU_TOLERANCE,
            residue_ram_bytes=max(0, after.api.proportional - self._before.api.proportional),
            residue_gpu_bytes=max(0, reserved - freed_gpu),
        )

    async def end_worker(self, cause: str, detail: str) -> None:
        """Kill and reap the worker, if there is one."""
        worker, self.worker = self.worker, None
        if worker is None:
            return
        worker.kill(cause, detail)
        try:
            async with asyncio.timeout(REAP_SECONDS):
                await asyncio.shield(worker.exited)
        except TimeoutError:
            # The zygote does not respond: ending it ends the worker too.
            await self.end_zygote()
        await worker.close()

    async def end_zygote(self) -> None:
        """Kill and reap the zygote, if there is one."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            self._stop_watching()
            await zygote.stop()
        elif self._watching is not None:
            # It has ended by itself, and may be being reaped right now.
            await asyncio.wait({self._watching}, timeout=REAP_SECONDS)

    async def measure(self) -> MemoryUsage:
        """Measure the memory of the processes now.

        The kernel walks a process's pages for it, for tens of milliseconds: one thread each.
        """
        api, zygote, worker, gpu_used_bytes = await asyncio.gather(
            asyncio.to_thread(resident_of, os.getpid()),
            asyncio.to_thread(_held_by, self._zygote),
            asyncio.to_thread(_held_by, self.worker),
            asyncio.to_thread(self._gpu.used_bytes),
        )
        return MemoryUsage(api, zygote, worker, gpu_used_bytes)

    async def start_zygote(self) -> Zygote:
        """Start a zygote if there is none; its imports continue meanwhile."""
        if self._zygote is None:
            self._zygote = await Zygote.start(self._made_for.engine, self._made_for.size, liveness=self._liveness)
            self._watching = asyncio.create_task(self._watch(self._zygote))
        return self._zygote

    async def _imported_zygote(self, phases: dict[str, float]) -> Zygote:
        started = time.perf_counter()
        zygote = await self.start_zygote()
        if not zygote.is_ready:
            await zygote.ready()
            phases["import"] = time.perf_counter() - started
        return zygote

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, zygote: Zygote) -> None:
        """Report a zygote that ended by itself."""
        await zygote.wait_lost()
        if self._zygote is zygote:
            self._zygote = None
            await zygote.stop()
            self._on_zygote_lost()


def _held_by(process: Zygote | Worker | None) -> Resident:
    return resident_of(process.pid) if process else NOTHING
