"""The next status of a WhisperModel."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from whisper_operator.reconcile.observation import Observation
from whispermodel.catalog import Device
from whispermodel.conditions import Finding, as_conditions
from whispermodel.planning.modes import ManualCommand
from whispermodel.planning.planner import Plan
from whispermodel.states import State
from whispermodel.status import LastFailure, LastLoad, LastUnload, Memory, Replicas, Status
from whispermodel.status_writes import memory, next_transition, recent_starts, shortened, state_since, whole

FIGURES_EVERY = timedelta(minutes=1)
"""How often figures are written at most; memory is a new figure only if it changed by more than a tenth."""
_MOVED = 0.1
BRIEF_LOAD = timedelta(seconds=2)
"""How long the load that ends a wake-up may take before a status of its own reports it: small models take less."""
_PROGRESS = {"state", "since", "message", "replicas", "device", "memory", "idle_since", "next_transition", "conditions"}
"""Fields that show how far a start has come; of conditions, their status shows more than that."""


@dataclass(frozen=True, slots=True)
class Unreported:
    """What happened since the last status was written and cannot be observed later."""

    load: LastLoad | None = None
    """The last load."""
    unload: LastUnload | None = None
    """The last unload of a model."""
    failure: LastFailure | None = None
    """The last failed call to a pod."""
    start_seconds: float | None = None
    """How long the load took, including the start of its pod."""


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """What the next status is made of."""

    generation: int
    """The version of the spec that was applied."""
    state: State
    """What the model is."""
    plan: Plan
    """What it should be."""
    observation: Observation
    """What was observed."""
    desired_replicas: int
    """How many pods the Deployment asks for."""
    spec_since: datetime
    """When this version of the spec was first applied."""
    idle_since: datetime | None
    """When the last work ended."""
    manual: ManualCommand | None
    """The manual command that still counts."""
    unreported: Unreported
    """What happened since the last status."""
    findings: tuple[Finding, ...]
    """The conditions."""


def next_status(before: Status, inputs: StatusInputs) -> Status:
    """Return the status after `before`; what is unchanged keeps its time."""
    now, unreported, plan = inputs.observation.now, inputs.unreported, inputs.plan
    loaded = sum(report.state is State.LOADED for report in inputs.observation.reports)
    device = next((report.device for report in inputs.observation.reports if report.device), None)
    return Status(
        observed_generation=inputs.generation,
        state=inputs.state,
        target=plan.target,
        reason=plan.reason,
        message=_message(inputs),
        since=state_since(before, inputs.state, now),
        spec_since=inputs.spec_since,
        idle_since=inputs.idle_since,
        next_transition=next_transition(plan.next_transition),
        replicas=Replicas(desired=inputs.desired_replicas, ready=len(inputs.observation.reports), loaded=loaded),
        manual=inputs.manual,
        device=Device(device) if device else before.device,
        memory=_memory(before.memory, inputs.observation),
        last_load=unreported.load or before.last_load,
        recent_start_seconds=recent_starts(before, unreported.start_seconds),
        last_unload=unreported.unload or before.last_unload,
        last_failure=unreported.failure or _last_failure(before, inputs.observation),
        conditions=tuple(as_conditions(before, inputs.findings, generation=inputs.generation, now=now)),
    )


def is_start_continued(before: Status, after: Status) -> bool:
    """Return whether all that is new is that a model whose pods were starting is being loaded."""
    is_continued = before.state is State.STARTING and after.state is State.LOADING
    return is_continued and _without_progress(before) == _without_progress(after)


def _without_progress(status: Status) -> tuple[Status, dict[str, str]]:
    verdicts = {condition.type: condition.status for condition in status.conditions}
    return status.model_copy(update=dict.fromkeys(_PROGRESS)), verdicts


def _message(inputs: StatusInputs) -> str:
    """Return the plan's message, after the cause of a failure."""
    failure = inputs.observation.failure
    if inputs.state is not State.FAILED or failure is None:
        return inputs.plan.message
    cause = shortened(failure.message)
    return f"{cause if cause.endswith('.') else f'{cause}.'} Wanted: {inputs.plan.message}"


def _last_failure(before: Status, observation: Observation) -> LastFailure | None:
    failure, known = observation.failure, before.last_failure
    if failure is None:
        return known
    message = shortened(failure.message)
    # A pod reports its last failed load without a count, so the count of our calls stands.
    if known and (known.reason, known.message) == (failure.reason, message) and known.count >= failure.count:
        return known
    return LastFailure(
        reason=failure.reason,
        message=message,
        exit_code=failure.exit_code,
        time=whole(observation.now),
        count=failure.count,
    )


def _memory(before: Memory | None, observation: Observation) -> Memory | None:
    held = observation.memory
    if held is None:
        # Not scraped this time, or no answer.
        return before if observation.pods else None
    if before and not _moved(before.resident_bytes, held.resident) and not _moved(before.gpu_bytes, held.gpu):
        return before
    return memory(resident=held.resident, gpu=held.gpu, gpu_reserved=held.gpu_reserved, at=observation.now)


def _moved(before: int, now: int) -> bool:
    return abs(now - before) > _MOVED * before
