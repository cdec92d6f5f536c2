"""The conditions of a WhisperModel, each from what was observed and planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whisper_operator.reconcile.failures import CONTAINER_ENDS, Failure
from whisper_operator.reconcile.observation import Observation
from whispermodel.conditions import ConditionType
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan
from whispermodel.spec import State
from whispermodel.status import LastUnload, Status


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times. status: None stands for Unknown."""

    type: ConditionType
    status: bool | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ConditionInputs:
    """What conditions are judged by. unproven: what ended a container after which the model has not loaded yet."""

    state: State
    plan: Plan
    observation: Observation
    wanted: int = 1
    last_unload: LastUnload | None = None
    unproven: Failure | None = None

    @property
    def is_held_at_zero(self) -> bool:
        """Whether pods are wanted, and another scaler keeps them away."""
        return self.observation.is_held_at_zero and self.plan.target is not State.ZERO


def unproven_failure(before: Status, plan: Plan, *, generation: int, state: State) -> Failure | None:
    """Return what ended a container, as the status tells, while it is wanted and only a load can prove it cured.

    The container runs again soon, and ends again where it did before: that is no recovery.
    """
    if plan.target is not State.LOADED or state is State.LOADED or before.observed_generation != generation:
        return None
    told = before.condition(ConditionType.DEGRADED)
    return Failure(told.reason, told.message) if told and told.reason in CONTAINER_ENDS else None


def unreadable(problem: str) -> Iterator[Finding]:
    """Yield the findings of a model whose spec cannot be obeyed, and nothing of which is touched."""
    yield Finding(ConditionType.READY, False, "InvalidSpec", problem)
    yield Finding(ConditionType.MODEL_LOADED, None, "InvalidSpec", "Not looked at.")
    yield Finding(ConditionType.PROGRESSING, False, "InvalidSpec", "Nothing is done until the spec is mended.")
    yield Finding(ConditionType.DEGRADED, True, "InvalidSpec", problem)
    yield Finding(ConditionType.SCHEDULE_VALID, None, "InvalidSpec", "Not looked at.")
    yield Finding(ConditionType.SCALER_CONFLICT, None, "InvalidSpec", "Not looked at.")


def conditions(now: ConditionInputs) -> Iterator[Finding]:
    """Yield one finding for each type of condition."""
    yield _ready(now)
    yield _model_loaded(now)
    yield _progressing(now)
    yield _degraded(now)
    yield _schedule_valid(now)
    yield _scaler_conflict(now)


def _ready(now: ConditionInputs) -> Finding:
    failure, suspended = now.observation.failure, now.plan.reason is Reason.SUSPENDED
    serving = _serving(now)
    if failure and serving is None:
        return Finding(ConditionType.READY, False, failure.reason, failure.message)
    if suspended and now.state is State.ZERO:
        return Finding(ConditionType.READY, False, "Suspended", "Nothing wakes the model while it is suspended.")
    if now.is_held_at_zero:
        return Finding(ConditionType.READY, False, "ScalerConflict", _held_words(now))
    if not now.plan.accepts:
        until = f" until {now.plan.accepts_at.isoformat()}" if now.plan.accepts_at else ""
        return Finding(ConditionType.READY, False, "Refused", f"New work is refused{until}: demandPolicy is Refuse.")
    if _unresponsive(now) and serving is None and now.state is State.FAILED:
        return Finding(ConditionType.READY, False, "Unreachable", "No pod has answered for 5 minutes.")
    if _unresponsive(now) and serving is None:
        return Finding(ConditionType.READY, None, "Unreachable", "No pod tells whether it would serve a request.")
    if now.unproven and serving is None:
        return Finding(ConditionType.READY, False, now.unproven.reason, now.unproven.message)
    state = serving or now.state
    return Finding(
        ConditionType.READY, True, state.value, _READY_WORDS.get(state, "A request waits until the model is loaded.")
    )


def _serving(now: ConditionInputs) -> State | None:
    """Return the state of the pod that serves a request soonest: where one of several ails, the others go on."""
    states = [view.report.state for view in now.observation.pods if view.report and not view.failure]
    if now.unproven:
        states = [state for state in states if state is State.LOADED]
    return max(states, key=lambda state: state.rank, default=None)


_READY_WORDS = {
    State.LOADED: "A request is served at once.",
    State.UNLOADED: "A request loads the model first.",
    State.ZERO: "A request starts a pod and loads the model first.",
}


def _model_loaded(now: ConditionInputs) -> Finding:
    loaded = sum(report.state is State.LOADED for report in now.observation.reports)
    everywhere = now.state is State.LOADED and loaded >= now.wanted
    words = f"{loaded} of {now.wanted} pods hold the model in memory."
    return Finding(ConditionType.MODEL_LOADED, everywhere, "Loaded" if everywhere else now.state.value, words)


def _progressing(now: ConditionInputs) -> Finding:
    if now.state is State.STARTING and now.observation.leaving:
        words = "A pod is to start, and waits until the one before it has finished its work and is gone."
        return Finding(ConditionType.PROGRESSING, True, "Draining", words)
    awaited = _AWAITED.get(now.state)
    if (
        awaited is None
        and not now.is_held_at_zero
        and now.state is not now.plan.target
        and now.plan.reason is not Reason.SUSPENDED
        and not _failed_and_is_let_be(now)
    ):
        awaited = f"{now.state} is on its way to {now.plan.target}."
    if awaited is None:
        return Finding(ConditionType.PROGRESSING, False, "AtRest", "Nothing is under way.")
    return Finding(ConditionType.PROGRESSING, True, now.state.value, awaited)


def _failed_and_is_let_be(now: ConditionInputs) -> bool:
    """Tell whether a load failed that nobody wants any more, and that left nothing behind."""
    return (now.state, now.plan.target) == (State.FAILED, State.UNLOADED) and not (
        now.plan.steps or now.observation.start_blocker
    )


_AWAITED = {
    State.STARTING: "A pod is starting: its container has to run and its server to answer.",
    State.LOADING: "A pod is loading the model into memory.",
    State.UNLOADING: "A pod is giving its memory back.",
}


def _degraded(now: ConditionInputs) -> Finding:
    failure = now.observation.failure or now.observation.late_start
    if failure:
        return Finding(ConditionType.DEGRADED, True, failure.reason, failure.message)
    if now.is_held_at_zero:
        return Finding(ConditionType.DEGRADED, True, "ScalerConflict", _held_words(now))
    unresponsive = _unresponsive(now)
    if unresponsive:
        return Finding(ConditionType.DEGRADED, True, "Unreachable", f"A pod does not answer: {unresponsive}")
    # What is seen comes before what is remembered.
    if now.unproven:
        return Finding(ConditionType.DEGRADED, True, now.unproven.reason, now.unproven.message)
    unload = now.last_unload
    if now.state is State.UNLOADED and unload and not unload.fully_released:
        words = "The last unload did not give all of its GPU memory back: something else holds it, see nvidia-smi."
        return Finding(ConditionType.DEGRADED, True, "MemoryNotReleased", words)
    return Finding(ConditionType.DEGRADED, False, "AsAsked", "It works as asked.")


def _held_words(now: ConditionInputs) -> str:
    return f"A pod is wanted, and '{now.observation.other_scaler}' keeps the Deployment at none: see ScalerConflict."


def _unresponsive(now: ConditionInputs) -> str | None:
    return next((view.unresponsive for view in now.observation.pods if view.unresponsive), None)


def _schedule_valid(now: ConditionInputs) -> Finding:
    problem = now.plan.problem
    if problem:
        return Finding(ConditionType.SCHEDULE_VALID, False, "InvalidSchedule", f"{problem[0].upper()}{problem[1:]}.")
    return Finding(ConditionType.SCHEDULE_VALID, True, "Valid", "The zone exists and every entry can fire.")


def _scaler_conflict(now: ConditionInputs) -> Finding:
    other = now.observation.other_scaler
    if other:
        words = (
            f"'{other}' also sets the Deployment's replicas, so the operator leaves them alone. Remove it, "
            "then drop its claim: kubectl patch deployment NAME --type=merge "
            '-p \'{"metadata":{"managedFields":[{}]}}\'.'
        )
        return Finding(ConditionType.SCALER_CONFLICT, True, "OtherScaler", words)
    return Finding(ConditionType.SCALER_CONFLICT, False, "Alone", "Nothing else scales the Deployment.")
