"""The status of a WhisperModel: what was observed, what is aimed at, and what loads and unloads came to.

The schema's source is crds/whispermodels.yaml; a test holds these classes to it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from whispermodel.catalog import Device
from whispermodel.planning.modes import Reason
from whispermodel.spec import Mode, State

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(
        # A newer operator's fields must not keep an older one from reading its own.
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
    """The next change of the target, supposing that no work comes."""

    time: AwareDatetime
    state: State
    by: str
    summary: str


class Replicas(_Part):
    """Pods: wanted, ready, and with the model in memory."""

    desired: Count
    ready: Count
    loaded: Count


class Manual(_Part):
    """A load or unload by hand that is still in force."""

    state: Mode
    at: AwareDatetime


class Memory(_Part):
    """What the pods hold, from their metrics; bytes. resident counts shared pages by their share (PSS)."""

    summary: str
    resident_bytes: Count
    gpu_bytes: Count
    gpu_reserved_bytes: Count
    observed_at: AwareDatetime


class LastLoad(_Part):
    """What the last load came to."""

    time: AwareDatetime
    seconds: Seconds
    phases: dict[str, Seconds] = Field(default_factory=dict)
    trigger: str


class LastUnload(_Part):
    """What the last unload gave back, as measured."""

    time: AwareDatetime
    seconds: Seconds
    freed_resident_bytes: Count
    freed_gpu_bytes: Count
    fully_released: bool


class LastFailure(_Part):
    """The last thing that went wrong, with its root cause; count: how often in a row."""

    reason: str
    message: str
    exit_code: int | None = None
    time: AwareDatetime
    count: Count


class Status(_Part):
    """All that the operator says of a model.

    spec_since: since when this version of the spec is obeyed: when its desiredState or override came into force.
    """

    observed_generation: Count = 0
    state: State | None = None
    target: State | None = None
    reason: Reason | None = None
    message: str = ""
    since: AwareDatetime | None = None
    spec_since: AwareDatetime | None = None
    idle_since: AwareDatetime | None = None
    next_transition: NextTransition | None = None
    replicas: Replicas | None = None
    manual: Manual | None = None
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
