"""The spec of a WhisperModel, typed: what people ask for.

The schema's source is crds/whispermodels.yaml; a test compares these classes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal, Self, cast
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from whispermodel.catalog import ComputeType, Device, Engine, conflicts, find_size
from whispermodel.durations import format_duration, parse_duration
from whispermodel.instants import Instant
from whispermodel.quantities import format_bytes, parse_bytes
from whispermodel.states import Mode

GROUP = "audio-transcriber.io"
VERSION = "v1alpha1"
KIND = "WhisperModel"
PLURAL = "whispermodels"
API_VERSION = f"{GROUP}/{VERSION}"


def _duration_of(given: object) -> object:
    """Refuse a bare number, as the API server does: its unit is unknown."""
    if isinstance(given, str):
        return parse_duration(given)
    if not isinstance(given, timedelta):
        raise ValueError("a duration needs a unit, such as 15m")
    return given


Duration = Annotated[timedelta, BeforeValidator(_duration_of), PlainSerializer(format_duration)]
"""Written as in the Gateway API: 1h30m."""

Bytes = Annotated[
    int,
    BeforeValidator(lambda value: parse_bytes(value) if isinstance(value, str) else value),
    PlainSerializer(format_bytes),
]
"""Written as a Kubernetes quantity: 10Gi."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]

Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$", max_length=128)]
"""What clients may call a model: names at model hubs, such as openai/whisper-large-v3, are of this form."""

ONLY_MODEL = "whisper-1"
"""The name of OpenAI's only model of this kind. It stands for the only WhisperModel, so it can be nobody's alias."""


class DemandPolicy(StrEnum):
    """What happens to new requests while the mode is Unloaded or Zero."""

    WAKE = "Wake"
    REFUSE = "Refuse"


def _require_unique(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"duplicate {what}: {', '.join(twice)}")


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )

    @model_validator(mode="before")
    @classmethod
    def _take_null_for_absent(cls, given: object) -> object:
        """Treat null as absent, as the API server does: `schedule:` without a value is no schedule."""
        if not isinstance(given, dict):
            return given
        fields = cast("dict[str, object]", given)
        return {name: value for name, value in fields.items() if value is not None}


class Source(_Part):
    """Where the pod finds the weights."""

    path: Annotated[str, StringConstraints(pattern=r"^/", max_length=1024)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class ModelChoice(_Part):
    """Which model to serve, and what runs it."""

    size: str
    engine: Engine = Engine.OPENAI_WHISPER
    device: Device | None = None
    compute_type: ComputeType | None = None
    source: Source | None = None

    @model_validator(mode="after")
    def _parts_go_together(self) -> Self:
        found = conflicts(find_size(self.size), self.engine, device=self.device, compute_type=self.compute_type)
        if found:
            raise ValueError("; ".join(found))
        return self


class Entry(_Part):
    """A cron expression, and the mode that comes into force each time it fires."""

    name: Name
    cron: Annotated[str, StringConstraints(max_length=256)]
    state: Mode

    @field_validator("cron")
    @classmethod
    def _has_five_fields(cls, cron: str) -> str:
        if len(cron.split()) != 5:
            raise ValueError("write five fields: minute hour day-of-month month day-of-week, such as '0 20 * * 1-5'")
        return cron


class ScheduleException(_Part):
    """An absolute period [from, to) during which schedule entries have no effect."""

    name: Name
    start: Annotated[Instant, Field(alias="from")]
    end: Annotated[Instant, Field(alias="to")]
    state: Mode

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"the exception {self.name!r} must end (to) after it starts (from)")
        return self


class Schedule(_Part):
    """When modes change, by the clock of one time zone."""

    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "Etc/UTC"
    entries: Annotated[tuple[Entry, ...], Field(max_length=32)] = ()
    exceptions: Annotated[tuple[ScheduleException, ...], Field(max_length=64)] = ()
    lead_time: Literal["Auto"] | Duration = timedelta()

    @model_validator(mode="after")
    def _names_are_unique_and_exceptions_apart(self) -> Self:
        _require_unique("entry names", [entry.name for entry in self.entries])
        _require_unique("exception names", [exception.name for exception in self.exceptions])
        ordered = sorted(self.exceptions, key=lambda exception: exception.start)
        for first, second in pairwise(ordered):
            if second.start < first.end:
                raise ValueError(f"the exceptions {first.name!r} and {second.name!r} must not overlap")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone. Raises ZoneInfoNotFoundError or ValueError if there is none of that name."""
        return ZoneInfo(self.time_zone)


class Idle(_Part):
    """How long an idle model stays; both times count from the end of the last work."""

    unload_after: Duration = timedelta(minutes=15)
    scale_to_zero_after: Duration | None = None

    @model_validator(mode="after")
    def _zero_comes_last(self) -> Self:
        if self.scale_to_zero_after is not None and self.scale_to_zero_after < self.unload_after:
            raise ValueError("scaleToZeroAfter must not be shorter than unloadAfter: a pod outlives its model")
        return self


class Override(_Part):
    """A mode that takes precedence over all others until it expires."""

    state: Mode
    until: Instant
    reason: Annotated[str, StringConstraints(max_length=256)] = ""


class Queue(_Part):
    """How many requests may wait, and for how long."""

    max_waiting: Annotated[int, Field(strict=True, ge=0, le=100_000)] = 100
    max_audio_bytes: Bytes = 10 * 1024**3
    max_wait: Duration = timedelta(minutes=10)


class Cache(_Part):
    """Where downloaded checkpoints are kept; the pod mounts it at /models."""

    persistent_volume_claim: str


class Watts(_Part):
    """A power with its uncertainty; watts."""

    low: Annotated[float, Field(ge=0)]
    central: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.low <= self.central <= self.high:
            raise ValueError("low, central and high must be in ascending order")
        return self


class Energy(_Part):
    """What the GPU draws; energy is accounted only if it is declared."""

    gpu_model: str | None = None
    loaded_idle_watts: Watts | None = None
    unloaded_watts: Watts | None = None


class Pod(_Part):
    """Fields of the pod template, in the form that Kubernetes defines."""

    image: str | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: tuple[dict[str, JsonValue], ...] = ()
    resources: dict[str, JsonValue] | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, JsonValue], ...] = ()
    affinity: dict[str, JsonValue] | None = None
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    service_account_name: str | None = None
    termination_grace_period_seconds: Annotated[int, Field(strict=True, ge=0, le=86_400)] | None = None
    env: tuple[dict[str, JsonValue], ...] = ()
    volumes: tuple[dict[str, JsonValue], ...] = ()
    volume_mounts: tuple[dict[str, JsonValue], ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Spec(_Part):
    """What people ask for."""

    model: ModelChoice
    desired_state: Mode = Mode.AUTO
    demand_policy: DemandPolicy = DemandPolicy.WAKE
    schedule: Schedule = Schedule()
    idle: Idle = Idle()
    override: Override | None = None
    suspend: Annotated[bool, Field(strict=True)] = False
    replicas: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    aliases: Annotated[tuple[Alias, ...], Field(max_length=16)] = ()
    queue: Queue = Queue()
    cache: Cache | None = None
    pod: Pod = Pod()
    energy: Energy | None = None

    @field_validator("aliases")
    @classmethod
    def _are_unique_and_free(cls, aliases: tuple[str, ...]) -> tuple[str, ...]:
        _require_unique("aliases", aliases)
        if ONLY_MODEL in aliases:
            raise ValueError(f"choose an alias other than {ONLY_MODEL}, which requests the only model there is")
        return aliases
