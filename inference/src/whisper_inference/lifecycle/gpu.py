"""Facts about the GPU from NVML, which is opened for each query only: an API process must not hold the driver.

CUDA is never opened here: a context costs hundreds of megabytes and keeps the GPU from idling.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import NewType, cast

import pynvml  # pyright: ignore[reportMissingTypeStubs]

from whisper_inference.model_control import GpuFacts

_Device = NewType("_Device", object)


class NvmlGpu:
    """The machine's GPU, if it has one."""

    def facts(self) -> GpuFacts | None:
        """Return the facts of the GPU that a worker uses; None without a GPU or its driver."""
        try:
            with _nvml():
                devices = _visible_devices()
                return _facts(devices) if devices else None
        except pynvml.NVMLError:
            return None

    def used_bytes(self) -> int:
        """Return the bytes in use on that GPU, by any process; 0 without one.

        NVML does not see the processes of other containers, so a worker's share is the difference of two readings.
        """
        facts = self.facts()
        return facts.used_bytes if facts else 0


@contextmanager
def _nvml() -> Generator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _visible_devices() -> list[_Device]:
    """Return the devices that CUDA_VISIBLE_DEVICES names, in its order, up to the first that does not exist.

    Numbers are CUDA's with CUDA_DEVICE_ORDER=PCI_BUS_ID, which the zygote is given: NVML counts the same way.
    """
    every = [_by_index(number) for number in range(pynvml.nvmlDeviceGetCount())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return every
    visible: list[_Device] = []
    for name in named.split(","):
        device = _named(name.strip(), every)
        if device is None:
            break
        visible.append(device)
    return visible


def _named(name: str, every: list[_Device]) -> _Device | None:
    """Return the device of a number, of a UUID or its beginning, or of a MIG instance's UUID."""
    if name.isdecimal():
        return every[int(name)] if int(name) < len(every) else None
    if name.startswith("MIG-"):
        return cast("_Device", pynvml.nvmlDeviceGetHandleByUUID(name))  # pyright: ignore[reportUnknownMemberType]
    beginning = [device for device in every if name.startswith("GPU-") and _uuid(device).startswith(name)]
    return beginning[0] if len(beginning) == 1 else None


def _by_index(number: int) -> _Device:
    return cast("_Device", pynvml.nvmlDeviceGetHandleByIndex(number))  # pyright: ignore[reportUnknownMemberType]


def _uuid(device: _Device) -> str:
    return _text(pynvml.nvmlDeviceGetUUID(device))  # pyright: ignore[reportUnknownMemberType]


def _facts(devices: list[_Device]) -> GpuFacts:
    device = devices[0]
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)  # pyright: ignore[reportUnknownMemberType]
    # 12010 means 12.1 (nvmlSystemGetCudaDriverVersion).
    version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    return GpuFacts(
        name=_text(pynvml.nvmlDeviceGetName(device)),  # pyright: ignore[reportUnknownMemberType]
        device_count=len(devices),
        cuda_version=f"{version // 1000}.{version % 1000 // 10}",
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
    )


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
