"""GPU memory of a worker whose engine does not report it: the growth of the device's used bytes."""

from __future__ import annotations

import asyncio
import os
from typing import cast

import pytest

from whisper_inference.engines.base import ModelSpec
from whisper_inference.lifecycle.processes import Processes
from whisper_inference.model_control import UnloadReceipt
from whisper_inference.worker import protocol
from whisper_inference.worker.supervisor import Liveness, Worker, Zygote
from whispermodel.states import Depth

GIB = 2**30
MODEL = 3 * GIB


class Gpu:
    """Another process uses one GiB already."""

    def __init__(self) -> None:
        self.used = GIB

    def used_bytes(self) -> int:
        return self.used


class HeldWorker:
    """A worker that has loaded, and does not release `leaves` bytes when it ends."""

    def __init__(self, gpu: Gpu, ready: protocol.Ready, *, leaves: int) -> None:
        self.pid, self.phases = os.getpid(), dict[str, float]()
        self.gpu_bytes = (ready.gpu_allocated_bytes, ready.gpu_reserved_bytes)
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._gpu, self._ready, self._leaves = gpu, ready, leaves

    async def ready(self) -> protocol.Ready:
        self._gpu.used += MODEL
        return self._ready

    def kill(self, cause: str, words: str) -> None:
        self._gpu.used -= MODEL - self._leaves
        self.exited.set_result(9)

    async def close(self) -> None: ...


class WarmZygote:
    """A zygote that has one worker."""

    def __init__(self, worker: HeldWorker) -> None:
        self.pid, self.is_ready = os.getpid(), True
        self._worker = worker

    async def fork(self, spec: ModelSpec) -> Worker:
        return cast("Worker", self._worker)

    async def wait_lost(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None: ...


async def loaded(*, device: str, tells: int = 0, leaves: int = 0) -> tuple[Processes, int]:
    """Return the processes of a loaded model, and the GPU bytes in the receipt of its load."""
    gpu, ready = Gpu(), protocol.Ready(device, "float16", tells, tells)
    zygote = cast("Zygote", WarmZygote(HeldWorker(gpu, ready, leaves=leaves)))
    spec = ModelSpec("base", engine="faster-whisper", cache_dir="/nowhere")
    processes = Processes(spec, gpu=gpu, liveness=Liveness(), zygote=zygote, on_zygote_lost=lambda: None)
    return processes, (await processes.load("test")).gpu_bytes


async def released(processes: Processes) -> UnloadReceipt:
    receipt = await processes.release(Depth.COLD, device="cuda", reason="test", forced=False)
    await processes.end_zygote()
    return receipt


async def test_unreported_gpu_memory_is_measured_on_the_device() -> None:
    processes, used = await loaded(device="cuda")
    assert (used, processes.gpu_bytes) == (MODEL, (MODEL, MODEL))
    receipt = await released(processes)
    assert (receipt.freed_gpu_bytes, receipt.fully_released, receipt.residue_gpu_bytes) == (MODEL, True, 0)
    assert processes.gpu_bytes == (0, 0)


async def test_unreleased_gpu_memory_is_reported() -> None:
    processes, _ = await loaded(device="cuda", leaves=GIB)
    receipt = await released(processes)
    assert (receipt.fully_released, receipt.residue_gpu_bytes) == (False, GIB)


@pytest.mark.parametrize(("device", "tells"), [("cuda", GIB), ("cpu", 0)])
async def test_reported_gpu_memory_is_used_as_it_is(device: str, tells: int) -> None:
    processes, used = await loaded(device=device, tells=tells)
    assert (used, processes.gpu_bytes) == (tells, (tells, tells))
    await released(processes)
