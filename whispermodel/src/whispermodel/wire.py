"""The JSON of the routes `/model/status`, `/model/load` and `/model/unload`: what servers write and clients read.

Servers and clients may be of different releases. Fields that a client does not know are ignored, nullable fields that a
server does not send are null, and amounts that nothing can be planned with are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, ClassVar, Literal, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from whispermodel.catalog import Device
from whispermodel.instants import Instant
from whispermodel.states import Depth, Mode, State

_MAX_AMOUNT = 1e9
_MAX_TRIGGER = 64

# Functions, not bounds of the fields: the API document promises plain numbers and strings.


def _require_amount(amount: float) -> float:
    # NaN compares false with everything.
    if not 0 <= amount <= _MAX_AMOUNT:
        raise ValueError(f"must be a number from 0 to {_MAX_AMOUNT:g}")
    return amount


def _require_count(count: int) -> int:
    if count < 0:
        raise ValueError("must not be negative")
    return count


def _require_short(text: str) -> str:
    if len(text) > _MAX_TRIGGER:
        raise ValueError(f"must not be longer than {_MAX_TRIGGER} characters")
    return text


def _require_device(text: str) -> str:
    return Device(text)


Amount = Annotated[float, AfterValidator(_require_amount)]
"""Seconds or MiB."""
Count = Annotated[int, AfterValidator(_require_count)]
Trigger = Annotated[str, AfterValidator(_require_short)]
"""What asked for a load: demand, startup, manual, operator, or a reason of the planner's."""


ComputeDevice = Annotated[str, AfterValidator(_require_device)]
"""A Device."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    absent: ClassVar[Mapping[str, object]] = {}
    """What the operator does not use, and what it reads there if a server of another release leaves it out."""

    @model_validator(mode="before")
    @classmethod
    def _take_absent_for_null(cls, given: object) -> object:
        """Let a server leave out what may be null: it may be older than the field."""
        if not isinstance(given, dict):
            return given
        nullable = {name for name, field in cls.model_fields.items() if NoneType in get_args(field.annotation)}
        required = {name for name in nullable if cls.model_fields[name].is_required()}
        return {**dict.fromkeys(required), **cls.absent, **cast("dict[str, object]", given)}


class Memory(_Answer):
    """Amounts in MiB; ram_mb counts shared pages by their share (PSS)."""

    ram_mb: Amount
    vram_mb: Amount


class LoadAnswer(_Answer):
    """The result of a load. If the model was already loaded, load_seconds is 0 and there are no phases."""

    absent = {"success": True, "message": "", "model_name": ""}

    success: bool
    message: str
    """What happened, for people."""
    memory_used: Memory | None = None
    """What the load added."""
    device: str | None = None
    model_name: str
    load_seconds: Amount | None = None
    phases: dict[str, Amount] = Field(default_factory=dict[str, float])
    """How long each part of the load took, in seconds."""


class UnloadAnswer(_Answer):
    """The result of an unload; if it is pending, it happens when the running work ends."""

    absent = {"success": True, "message": "", "model_name": ""}

    success: bool
    message: str
    """What happened, for people."""
    memory_freed: Memory | None = None
    device_was: str | None = None
    """Where the model was; null if none was loaded."""
    model_name: str
    fully_released: bool | None = None
    """Whether the GPU gave back all memory that the model had reserved."""
    unload_seconds: Amount | None = None
    pending: bool = False


class StatusMemory(_Answer):
    """MiB held by the model's processes."""

    absent = {"vram_mb": 0.0, "ram_mb": 0.0, "cuda_available": False}

    vram_mb: float
    vram_reserved_mb: float | None = None
    """Only while the model is loaded."""
    ram_mb: float
    cuda_available: bool


class GpuInfo(_Answer):
    """The GPU, as NVML reports it."""

    absent = {"name": "", "device_count": 0, "cuda_version": ""}

    name: str
    device_count: int
    cuda_version: str


class Manual(_Answer):
    """The last manual load or unload."""

    state: Literal[Mode.LOADED, Mode.UNLOADED]
    at: Instant


class LastLoad(_Answer):
    """The last load that succeeded, whoever asked for it."""

    absent = {"device": Device.CPU, "phases": {}, "trigger": "demand"}

    device: str
    load_seconds: Amount
    phases: dict[str, Amount]
    """How long each part of the load took, in seconds."""
    trigger: Trigger
    seconds_ago: Amount
    """Since its end."""


class LastUnload(_Answer):
    """The last unload that released a model, whoever asked for it."""

    device_was: str
    memory_freed: Memory
    fully_released: bool
    unload_seconds: Amount
    seconds_ago: Amount
    """Since its end."""


class ModelStatus(_Answer):
    """The model now. Times are durations until now, in seconds; nothing from before the server's start is known."""

    absent = {"loaded": False, "model_name": "", "memory": {}}

    loaded: bool
    state: State
    """Zero and Starting only from a gateway, whose models run in pods."""
    model_name: str
    device: ComputeDevice | None
    memory: StatusMemory
    gpu_info: GpuInfo | None = None
    idle_seconds: Amount
    """Since the last work ended; 0 while some is running."""
    work_began_seconds: Amount | None = None
    """Since the work that is running, or ran last, started executing; null if there has not been any."""
    in_flight: Count
    """Running jobs."""
    queued: Count
    """Waiting jobs, including uploads in progress."""
    depth: Depth | None
    """What the last unload left behind; null while the model is loaded."""
    manual: Manual | None
    ready_in_seconds: float | None
    """How long a load is likely to take; null before the first one."""
    failure: str | None = None
    """Why the last load failed, until one succeeds."""
    last_load: LastLoad | None
    last_unload: LastUnload | None
