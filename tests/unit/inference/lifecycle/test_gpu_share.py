"""What a worker holds on the GPU, where its engine does not tell: by how much the device's used bytes grew."""

from __future__ import annotations

import asyncio
import os
from typing import cast

import pytest

from whisper_inference.engines.base import ModelSpec
from whisper_inference.lifecycle.processes import Processes
from whisper_inference.model_control import Depth, UnloadReceipt
from whisper_inference.worker import protocol
from whisper_inference.worker.host import Liveness, Worker, Zygote

GIB = 2**30
MODEL = 3 * GIB


class Gpu:
    """A neighbour's GiB is in use already."""

    def __init__(self) -> None:
        self.used = GIB

    def used_bytes(self) -> int:
        return self.used


class HeldWorker:
    """A worker that has loaded, and gives back at its end what it is told to."""

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
    """A zygote with one worker to give."""

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


async def test_what_an_engine_does_not_tell_is_what_the_device_lost_to_the_load() -> None:
    processes, used = await loaded(device="cuda")
    assert (used, processes.gpu_bytes) == (MODEL, (MODEL, MODEL))
    receipt = await released(processes)
    assert (receipt.freed_gpu_bytes, receipt.fully_released, receipt.residue_gpu_bytes) == (MODEL, True, 0)
    assert processes.gpu_bytes == (0, 0)


async def test_memory_that_does_not_come_back_is_told_of_any_engine() -> None:
    processes, _ = await loaded(device="cuda", leaves=GIB)
    receipt = await released(processes)
    assert (receipt.fully_released, receipt.residue_gpu_bytes) == (False, GIB)


@pytest.mark.parametrize(("device", "tells"), [("cuda", GIB), ("cpu", 0)])
async def test_an_engine_that_tells_is_believed_and_a_cpu_has_no_share(device: str, tells: int) -> None:
    processes, used = await loaded(device=device, tells=tells)
    assert (used, processes.gpu_bytes) == (tells, (tells, tells))
    await released(processes)
