"""What NVML tells about the GPU. Opened for the moment of each question: an API process must not hold the driver.

CUDA is never opened here: a context costs hundreds of megabytes and keeps the GPU from idling.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pynvml  # pyright: ignore[reportMissingTypeStubs]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The first GPU. cuda_version: the newest that the driver serves, such as "12.1"."""

    name: str
    device_count: int
    cuda_version: str
    total_bytes: int
    used_bytes: int


class NvmlGpu:
    """The machine's GPU, if it has one."""

    def facts(self) -> GpuFacts | None:
        """Return the facts of the first GPU; None without a GPU or its driver."""
        try:
            with _nvml():
                count = int(pynvml.nvmlDeviceGetCount())
                return _facts(count) if count else None
        except pynvml.NVMLError:
            return None

    def used_bytes(self) -> int:
        """Return the bytes in use on the first GPU, by whomever; 0 without one.

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


def _facts(count: int) -> GpuFacts:
    device = pynvml.nvmlDeviceGetHandleByIndex(0)  # pyright: ignore[reportUnknownMemberType]
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)  # pyright: ignore[reportUnknownMemberType]
    # 12010 means 12.1 (nvmlSystemGetCudaDriverVersion).
    version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    return GpuFacts(
        name=_text(pynvml.nvmlDeviceGetName(device)),  # pyright: ignore[reportUnknownMemberType]
        device_count=count,
        cuda_version=f"{version // 1000}.{version % 1000 // 10}",
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
    )


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
