"""The conditions of a WhisperModel, and the findings that do not depend on where the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan
from whispermodel.states import State
from whispermodel.status import Condition, LastUnload, Status
from whispermodel.status_writes import shortened, whole


class ConditionType(StrEnum):
    """The conditions of a WhisperModel; all are set from the first status on."""

    READY = "Ready"
    MODEL_LOADED = "ModelLoaded"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SCHEDULE_VALID = "ScheduleValid"
    SCALER_CONFLICT = "ScalerConflict"


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times."""

    type: ConditionType
    """Which condition."""
    status: bool | None
    """Whether it holds; None stands for Unknown."""
    reason: str
    """Why, in CamelCase, for programs."""
    message: str
    """Why, in a sentence, for people."""


_STATUSES: dict[bool | None, Literal["True", "False", "Unknown"]] = {True: "True", False: "False", None: "Unknown"}


def as_conditions(
    before: Status, findings: Iterable[Finding], *, generation: int, now: datetime
) -> Iterator[Condition]:
    """Yield findings as conditions; one whose status is unchanged keeps the time of its last transition."""
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


def refused(plan: Plan) -> Finding | None:
    """Return that new requests are refused; None: they are accepted."""
    if plan.accepts:
        return None
    until = f" until {plan.accepts_at_local}" if plan.accepts_at_local else ""
    return Finding(ConditionType.READY, False, "Refused", f"New requests are refused{until}: demandPolicy is Refuse.")


_LOADS_FIRST = "The next request waits while the model loads."
_READY_MESSAGES = {
    State.LOADED: "The model is loaded; requests do not wait for a load.",
    State.UNLOADED: _LOADS_FIRST,
    State.ZERO: _LOADS_FIRST,
}


def ready(state: State) -> Finding:
    """Return that requests are served, and what they wait for in a state."""
    message = _READY_MESSAGES.get(state, "The next request waits until the model is loaded.")
    return Finding(ConditionType.READY, True, state.value, message)


_AWAITED = {
    State.STARTING: "A pod is starting; waiting for its container to run and its server to respond.",
    State.LOADING: "The model is being loaded into memory.",
    State.UNLOADING: "The model's memory is being released.",
}


def progressing(state: State, plan: Plan, *, held: bool = False, hindered: bool = False) -> Finding:
    """Return whether a transition is in progress.

    held: whether somebody else prevents it for good. hindered: whether something prevents a start for now.
    """
    awaited = _AWAITED.get(state)
    # A failed load that is no longer wanted needs nothing more.
    settled = (state, plan.target) == (State.FAILED, State.UNLOADED) and not (plan.steps or hindered)
    suspended = plan.reason is Reason.SUSPENDED
    if awaited is None and state is not plan.target and not (held or suspended or settled):
        awaited = f"Moving from {state} to {plan.target}."
    if awaited is None:
        return Finding(ConditionType.PROGRESSING, False, "AtRest", "No transition is in progress.")
    return Finding(ConditionType.PROGRESSING, True, state.value, awaited)


def memory_not_released(state: State, last_unload: LastUnload | None) -> Finding | None:
    """Return that an unloaded model still holds GPU memory; None: it does not, as far as is known."""
    if state is not State.UNLOADED or last_unload is None or last_unload.fully_released:
        return None
    message = (
        "The last unload did not free all of the model's GPU memory; another process may be holding it "
        "(check nvidia-smi)."
    )
    return Finding(ConditionType.DEGRADED, True, "MemoryNotReleased", message)


def as_expected() -> Finding:
    """Return that nothing is wrong."""
    return Finding(ConditionType.DEGRADED, False, "AsAsked", "Working as expected.")


def schedule_valid(plan: Plan) -> Finding:
    """Return whether the schedule that a plan was made with is valid, and why not."""
    if plan.problem:
        message = f"{plan.problem[0].upper()}{plan.problem[1:]}."
        return Finding(ConditionType.SCHEDULE_VALID, False, "InvalidSchedule", message)
    return Finding(ConditionType.SCHEDULE_VALID, True, "Valid", "The schedule is valid.")
