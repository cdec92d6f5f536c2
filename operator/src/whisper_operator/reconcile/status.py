"""The next status of a WhisperModel, and whether it is worth a write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue

from whisper_operator.reconcile.conditions import Finding
from whisper_operator.reconcile.observation import Observation
from whispermodel.planning.modes import ManualCommand
from whispermodel.planning.planner import Plan, Transition
from whispermodel.spec import State
from whispermodel.status import (
    Condition,
    LastFailure,
    LastLoad,
    LastUnload,
    Manual,
    Memory,
    NextTransition,
    Replicas,
    Status,
)

FIGURES_EVERY = timedelta(minutes=1)
"""Figures and times that move are written at most so often, and memory only when it moved by more than a tenth."""
_MOVED = 0.1
_STARTS_KEPT = 5
_FIGURES = {"memory", "idle_since", "next_transition", "message"}
_MOST_WORDS = 4096
"""Characters of a message: a server, or a policy of the cluster, may say more than anybody reads, or a status holds."""


@dataclass(frozen=True, slots=True)
class Unreported:
    """What happened since the last status was written, apart from what can be seen at any time."""

    load: LastLoad | None = None
    unload: LastUnload | None = None
    failure: LastFailure | None = None
    start_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """What the next status is made of. manual: the load or unload by hand that no fire has ended."""

    generation: int
    state: State
    plan: Plan
    observation: Observation
    desired_replicas: int
    spec_since: datetime
    idle_since: datetime | None
    manual: ManualCommand | None
    unreported: Unreported
    findings: tuple[Finding, ...]


def next_status(before: Status, inputs: StatusInputs) -> Status:
    """Return the status after `before`; what did not change keeps its time."""
    now, unreported, plan = inputs.observation.now, inputs.unreported, inputs.plan
    loaded = sum(report.state is State.LOADED for report in inputs.observation.reports)
    starts = before.recent_start_seconds
    if unreported.start_seconds:
        starts = (unreported.start_seconds, *starts)
    return Status(
        observed_generation=inputs.generation,
        state=inputs.state,
        target=plan.target,
        reason=plan.reason,
        message=_message(inputs),
        since=before.since if before.state is inputs.state and before.since else whole(now),
        spec_since=inputs.spec_since,
        idle_since=inputs.idle_since,
        next_transition=_next_transition(plan.next_transition),
        replicas=Replicas(desired=inputs.desired_replicas, ready=len(inputs.observation.reports), loaded=loaded),
        manual=Manual(state=inputs.manual.mode, at=inputs.manual.at) if inputs.manual else None,
        device=next((report.device for report in inputs.observation.reports if report.device), before.device),
        memory=_memory(before.memory, inputs.observation),
        last_load=unreported.load or before.last_load,
        recent_start_seconds=starts[:_STARTS_KEPT],
        last_unload=unreported.unload or before.last_unload,
        last_failure=unreported.failure or _last_failure(before, inputs.observation),
        conditions=tuple(as_conditions(before, inputs.findings, generation=inputs.generation, now=now)),
    )


def is_due(before: Status, after: Status, *, written_at: datetime | None, now: datetime) -> bool:
    """Tell whether to write: at once for what happened, and for what merely moved once in a while."""
    if before == after:
        return False
    if _without_figures(before) != _without_figures(after):
        return True
    if before.next_transition is None and after.next_transition is not None:
        # Work has ended, and people look for when the model goes. That it began is told by the Events of a wake.
        return True
    return written_at is None or now - written_at >= FIGURES_EVERY


def _without_figures(status: Status) -> Status:
    """Leave out what merely moves, as do the words of a failure that counts something: at each observe_pods, others."""
    failure, conditions = status.last_failure, status.conditions
    settled = {
        "last_failure": failure and failure.model_copy(update={"message": "", "time": None}),
        "conditions": tuple(condition.model_copy(update={"message": ""}) for condition in conditions),
    }
    return status.model_copy(update={**dict.fromkeys(_FIGURES), **settled})


def shortened(words: str) -> str:
    """Return as much of a message as a status holds."""
    return words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 3]}..."


def as_json(status: Status) -> dict[str, JsonValue]:
    """Return the status as it is applied: what is not known is left out."""
    return status.model_dump(mode="json", exclude_none=True)


def whole(time: datetime) -> datetime:
    """Return a time as statuses hold it, in whole seconds."""
    return time.replace(microsecond=0)


def _message(inputs: StatusInputs) -> str:
    """Return what the plan says; after what keeps the model from it."""
    failure = inputs.observation.failure
    if inputs.state is not State.FAILED or failure is None:
        return inputs.plan.message
    cause = shortened(failure.message)
    return f"{cause if cause.endswith('.') else f'{cause}.'} Wanted: {inputs.plan.message}"


def _next_transition(coming: Transition | None) -> NextTransition | None:
    if coming is None:
        return None
    return NextTransition(time=coming.time, state=coming.state, by=coming.by, summary=coming.summary)


def _last_failure(before: Status, observation: Observation) -> LastFailure | None:
    failure, known = observation.failure, before.last_failure
    if failure is None:
        return known
    message = shortened(failure.message)
    # A pod tells of its last failed load only, not which in a row it was: the count of our calls stands.
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
        # Not asked for this time, or not answered.
        return before if observation.pods else None
    if before and not _moved(before.resident_bytes, held.resident) and not _moved(before.gpu_bytes, held.gpu):
        return before
    return Memory(
        summary=f"{round(held.resident / 2**20)}Mi",
        resident_bytes=held.resident,
        gpu_bytes=held.gpu,
        gpu_reserved_bytes=held.gpu_reserved,
        observed_at=whole(observation.now),
    )


def _moved(before: int, now: int) -> bool:
    return abs(now - before) > _MOVED * before


_STATUSES: dict[bool | None, Literal["True", "False", "Unknown"]] = {True: "True", False: "False", None: "Unknown"}


def as_conditions(
    before: Status, findings: Iterable[Finding], *, generation: int, now: datetime
) -> Iterator[Condition]:
    """Yield findings as conditions; one whose status is as before keeps the time of its last transition."""
    for finding in findings:
        old, status = before.condition(finding.type), _STATUSES[finding.status]
        yield Condition(
            type=finding.type,
            status=status,
            reason=finding.reason,
            message=shortened(finding.message),
            last_transition_time=old.last_transition_time if old and old.status == status else whole(now),
            observed_generation=generation,
        )
