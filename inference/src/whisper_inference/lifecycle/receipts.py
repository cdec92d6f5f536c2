"""What was measured when a model came into memory or left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LoadReceipt:
    """One load. seconds: from the order to ready; phases: their parts. Bytes: what the processes have grown by
    (proportional set size) and what the worker has allocated on the GPU, or taken of it where it does not tell."""

    device: str
    compute_type: str
    trigger: str
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict[str, float])
    ram_bytes: int = 0
    gpu_bytes: int = 0


@dataclass(frozen=True, slots=True)
class UnloadReceipt:
    """One unload. Bytes: what the processes have shrunk by, and the fall of the GPU's used bytes.

    device: what the model was on; None when no model was loaded and only the zygote ended.
    fully_released: the processes are reaped and the GPU gave back what the worker had reserved. residue_ram_bytes:
    growth of the API process since before the load.
    """

    device: str | None
    depth: str
    reason: str
    seconds: float
    freed_ram_bytes: int
    freed_gpu_bytes: int
    fully_released: bool
    residue_ram_bytes: int = 0
    residue_gpu_bytes: int = 0
