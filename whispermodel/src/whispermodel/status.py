"""The status of a WhisperModel: what was observed, the target, and the results of loads and unloads.

The schema's source is crds/whispermodels.yaml; a test compares these classes with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from whispermodel.catalog import Device
from whispermodel.planning.modes import ManualCommand, Reason
from whispermodel.states import State

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(
        # An older operator must be able to read the status that a newer one wrote.
        extra="ignore",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        serialize_by_alias=True,
    )


class Condition(_Part):
    """As metav1.Condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: AwareDatetime
    observed_generation: Count | None = None


class NextTransition(_Part):
    """The next change of the target, if no more requests arrive."""

    time: AwareDatetime
    state: State
    by: str
    summary: str


class Replicas(_Part):
    """How many pods are wanted, are ready, and have the model in memory."""

    desired: Count
    ready: Count
    loaded: Count


class Memory(_Part):
    """Memory of the pods in bytes, from their metrics; resident memory counts shared pages by their share (PSS)."""

    summary: str
    resident_bytes: Count
    gpu_bytes: Count
    gpu_reserved_bytes: Count
    observed_at: AwareDatetime


class LastLoad(_Part):
    """The result of the last load."""

    time: AwareDatetime
    seconds: Seconds
    phases: dict[str, Seconds] = Field(default_factory=dict)
    trigger: str


class LastUnload(_Part):
    """What the last unload released, as measured."""

    time: AwareDatetime
    seconds: Seconds
    freed_resident_bytes: Count
    freed_gpu_bytes: Count
    fully_released: bool


class LastFailure(_Part):
    """The root cause of the last failure, and how often it occurred in a row."""

    reason: str
    message: str
    exit_code: int | None = None
    time: AwareDatetime
    count: Count


class Status(_Part):
    """Everything that is reported about a model."""

    observed_generation: Count = 0
    state: State | None = None
    target: State | None = None
    reason: Reason | None = None
    message: str = ""
    since: AwareDatetime | None = None
    spec_since: AwareDatetime | None = None
    """When this version of the spec was first applied, and so its desiredState or override came into force."""
    idle_since: AwareDatetime | None = None
    next_transition: NextTransition | None = None
    replicas: Replicas | None = None
    manual: ManualCommand | None = None
    """The manual load or unload that no fire has ended yet."""
    device: Device | None = None
    memory: Memory | None = None
    last_load: LastLoad | None = None
    recent_start_seconds: Annotated[tuple[Seconds, ...], Field(max_length=5)] = ()
    last_unload: LastUnload | None = None
    last_failure: LastFailure | None = None
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of a type."""
        return next((condition for condition in self.conditions if condition.type == kind), None)
