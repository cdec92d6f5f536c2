"""What the API needs of the model that it serves: facts about it, and commands to it.

Small on purpose: the processes of this machine implement it today, a fleet of pods can do so as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from whisper_inference.errors import RefusedForNow, RefusedUntil, ServiceError, error_of
from whispermodel.key import Key
from whispermodel.states import Depth, State

if TYPE_CHECKING:
    # Not imported when the server starts: only the types need it.
    from pydantic import JsonValue

    from whispermodel.planning.modes import ManualCommand
    from whispermodel.planning.planner import Plan

_MOST_RETRY_AFTER = 86_400.0
"""Seconds; sent where the end of a refusal is unknown."""

ReceiptT = TypeVar("ReceiptT")

Trigger = Literal["manual", "operator"]
"""Who asks for a load or an unload: a person, or the operator, whose commands do not count as manual."""


@dataclass(frozen=True, slots=True)
class LoadReceipt:
    """What was measured at one load."""

    device: str
    """Where the model is: cpu or cuda."""
    compute_type: str
    """The engine's number format, such as float16."""
    trigger: str
    """Who or what asked for the load."""
    seconds: float = 0.0
    """From the command to ready."""
    phases: Mapping[str, float] = field(default_factory=dict[str, float])
    """The parts of `seconds`, by name."""
    ram_bytes: int = 0
    """Growth of the processes (proportional set size)."""
    gpu_bytes: int = 0
    """What the worker has allocated on the GPU, or the growth of the GPU's used bytes if the engine does not say."""


@dataclass(frozen=True, slots=True)
class UnloadReceipt:
    """What was measured at one unload."""

    device: str | None
    """Where the model was; None when no model was loaded and only the zygote ended."""
    depth: str
    """How deep the unload went."""
    reason: str
    """Who or what asked for the unload."""
    seconds: float
    """From the command until the processes were reaped and measured."""
    freed_ram_bytes: int
    """By how much the processes shrank (proportional set size)."""
    freed_gpu_bytes: int
    """By how much the GPU's used bytes fell."""
    fully_released: bool
    """Whether the processes are reaped and the GPU gave back what the worker had reserved."""
    residue_ram_bytes: int = 0
    """Growth of the API process since before the load."""
    residue_gpu_bytes: int = 0
    """What the worker had reserved on the GPU and the GPU did not give back."""


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """How a load of a model ended."""

    model: Key
    """Which model."""
    error: ServiceError | None = None
    """Why it failed; None: it succeeded."""


LoadOutcomes = asyncio.Queue[LoadOutcome]
"""From whoever loads the model to the job queue, in order."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPU that CUDA uses first."""

    name: str
    """The product name."""
    device_count: int
    """How many GPUs CUDA may use."""
    cuda_version: str
    """The newest version that the driver supports, such as "12.1"."""
    total_bytes: int
    """The size of its memory."""
    used_bytes: int
    """Bytes in use, by any process."""


@dataclass(frozen=True, slots=True)
class Ended(Generic[ReceiptT]):
    """A load or an unload that succeeded, and how long ago."""

    receipt: ReceiptT
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model at one instant."""

    name: str
    """The served model's size, such as large-v3."""
    engine: str
    """What runs it, such as faster-whisper."""
    state: State
    """The model's state; Zero and Starting only where it runs in pods."""
    depth: Depth
    """What an unloaded model left behind; without meaning while it is loaded."""
    device: str | None
    """Where a loaded model is: cpu or cuda."""
    started: bool
    """Whether the load at start, if there is one, has ended."""
    in_flight: int
    """How many jobs hold an executor."""
    expected: int
    """How many uploads are in progress that the model is loaded for."""
    idle_seconds: float
    """Since the last work ended; 0 while some is running."""
    work_began_seconds: float | None
    """Since the running work, or else the last one, started executing; None: there was none yet."""
    gpu_bytes: tuple[int, int]
    """Allocated and reserved by the worker on the GPU."""
    backoff_seconds: float
    """Until the next attempt to load, after one has failed; 0: there is no back-off."""
    ready_in_seconds: float | None
    """How long a load is likely to take from here; None while nothing was measured."""
    manual: ManualCommand | None
    """The last load or unload that a person asked for."""
    failure: ServiceError | None
    """Why the last load failed; None after one that succeeded."""
    last_load: Ended[LoadReceipt] | None
    """The last load that succeeded."""
    last_unload: Ended[UnloadReceipt] | None
    """The last unload that released a model."""

    @property
    def retry_after(self) -> float | None:
        """Seconds until a job that waits for the model may be served; None: unknown."""
        return self.backoff_seconds or self.ready_in_seconds

    def load_failure(self) -> ServiceError | None:
        """Return what made the last load fail while its back-off runs: work that comes now would not be served."""
        if self.failure is None or self.state is not State.FAILED or self.backoff_seconds <= 0:
            return None
        failure = error_of(self.failure.code, self.failure.params)
        failure.retry_after = self.backoff_seconds
        return failure


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What the model's processes hold now, in bytes."""

    ram_bytes: int
    """Of the zygote and the worker (proportional set size)."""
    gpu: GpuFacts | None
    """The GPU; None without one."""


class ModelControl(Protocol):
    """One served model."""

    def facts(self) -> ModelFacts:
        """Return the model's state at this instant; never waits."""
        ...

    async def memory(self) -> ModelMemory:
        """Measure what the model holds now."""
        ...

    async def load(self, trigger: Trigger) -> LoadReceipt:
        """Load the model; one that is loaded already stays. Raises what made the load fail, Superseded, Overruled."""
        ...

    async def unload(self, trigger: Trigger, *, depth: Depth, force: bool) -> UnloadReceipt | None:
        """Unload the model after the running job, with force at once; None: nothing was loaded. Raises Superseded."""
        ...

    def expect_work(self) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Load the model while the work for it is still being uploaded.

        An exception in the block, or a call of what is lent, means that no work came after all.
        """
        ...

    def refusal(self) -> ServiceError | None:
        """Return why no new work is let in now, by the model's demandPolicy or because its spec is invalid; or None."""
        ...

    def unavailable(self) -> ServiceError | None:
        """Return why work that comes now would not be served soon, such as a failed load; None: it would."""
        ...

    async def resource(self) -> dict[str, JsonValue] | None:
        """Return the WhisperModel as `kubectl get -o json` shows it; None: there is none."""
        ...


def refusal_of(planned: Plan, now: datetime) -> ServiceError | None:
    """Return why a plan lets no new work in; None: it does."""
    if planned.accepts:
        return None
    if planned.accepts_at is None or planned.accepts_at_local is None:
        return RefusedForNow(retry_after=_MOST_RETRY_AFTER)
    seconds = max(1.0, (planned.accepts_at - now).total_seconds())
    return RefusedUntil(accepts_at=planned.accepts_at_local, retry_after=seconds)
