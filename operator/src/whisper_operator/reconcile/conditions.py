"""The conditions of a WhisperModel that runs in pods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whisper_operator.reconcile.failures import CONTAINER_ENDS, Failure
from whisper_operator.reconcile.observation import Observation
from whispermodel.conditions import (
    ConditionType,
    Finding,
    as_expected,
    memory_not_released,
    progressing,
    ready,
    refused,
    schedule_valid,
)
from whispermodel.durations import format_duration
from whispermodel.planning.decision import UNRESPONSIVE_COUNTS_AS_WORK
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan
from whispermodel.states import State
from whispermodel.status import LastUnload, Status


@dataclass(frozen=True, slots=True)
class ConditionInputs:
    """What the conditions are derived from."""

    state: State
    """What the model is."""
    plan: Plan
    """What it should be."""
    observation: Observation
    """What was observed."""
    wanted: int = 1
    """How many pods are wanted."""
    last_unload: LastUnload | None = None
    """The result of the last unload."""
    unproven: Failure | None = None
    """What ended a container after which the model has not been loaded yet."""

    @property
    def is_held_at_zero(self) -> bool:
        """Whether pods are wanted, but another scaler keeps the Deployment at zero."""
        return self.observation.is_held_at_zero and self.plan.target is not State.ZERO


def unproven_failure(before: Status, plan: Plan, *, generation: int, state: State) -> Failure | None:
    """Return what ended a container, as reported earlier, until a load proves that it has recovered.

    The container soon runs again, and may end again at the same point: running alone is no recovery.
    """
    if plan.target is not State.LOADED or state is State.LOADED or before.observed_generation != generation:
        return None
    reported = before.condition(ConditionType.DEGRADED)
    return Failure(reported.reason, reported.message) if reported and reported.reason in CONTAINER_ENDS else None


def invalid_spec(problem: str) -> Iterator[Finding]:
    """Yield the findings about a model whose spec is invalid, so that nothing is done about it."""
    yield Finding(ConditionType.READY, False, "InvalidSpec", problem)
    yield Finding(ConditionType.MODEL_LOADED, None, "InvalidSpec", "Not evaluated.")
    yield Finding(ConditionType.PROGRESSING, False, "InvalidSpec", "Waiting for the spec to be fixed.")
    yield Finding(ConditionType.DEGRADED, True, "InvalidSpec", problem)
    yield Finding(ConditionType.SCHEDULE_VALID, None, "InvalidSpec", "Not evaluated.")
    yield Finding(ConditionType.SCALER_CONFLICT, None, "InvalidSpec", "Not evaluated.")


def conditions(now: ConditionInputs) -> Iterator[Finding]:
    """Yield one finding for each type of condition."""
    yield _ready(now)
    yield _model_loaded(now)
    yield _progressing(now)
    yield _degraded(now)
    yield schedule_valid(now.plan)
    yield _scaler_conflict(now)


def _ready(now: ConditionInputs) -> Finding:
    failure, suspended = now.observation.failure, now.plan.reason is Reason.SUSPENDED
    serving = _serving(now)
    if failure and serving is None:
        return Finding(ConditionType.READY, False, failure.reason, failure.message)
    if suspended and now.state is State.ZERO:
        return Finding(ConditionType.READY, False, "Suspended", "Nothing wakes the model while it is suspended.")
    if now.is_held_at_zero:
        return Finding(ConditionType.READY, False, "ScalerConflict", _held_message(now))
    if refusal := refused(now.plan):
        return refusal
    if _unresponsive(now) and serving is None and now.state is State.FAILED:
        silence = format_duration(UNRESPONSIVE_COUNTS_AS_WORK)
        return Finding(ConditionType.READY, False, "Unreachable", f"No pod has responded for {silence}.")
    if _unresponsive(now) and serving is None:
        return Finding(ConditionType.READY, None, "Unreachable", "No pod is responding, so readiness is unknown.")
    if now.unproven and serving is None:
        return Finding(ConditionType.READY, False, now.unproven.reason, now.unproven.message)
    if serving is None and now.state is State.ZERO:
        message = "The next request waits while a pod starts and the model loads."
        return Finding(ConditionType.READY, True, now.state.value, message)
    return ready(serving or now.state)


def _serving(now: ConditionInputs) -> State | None:
    """Return the state of the pod that can serve a request soonest; one that fails does not stop the others."""
    states = [view.report.state for view in now.observation.pods if view.report and not view.failure]
    if now.unproven:
        states = [state for state in states if state is State.LOADED]
    return max(states, key=lambda state: state.rank, default=None)


def _model_loaded(now: ConditionInputs) -> Finding:
    loaded = sum(report.state is State.LOADED for report in now.observation.reports)
    everywhere = now.state is State.LOADED and loaded >= now.wanted
    message = f"{loaded} of {now.wanted} pods hold the model in memory."
    return Finding(ConditionType.MODEL_LOADED, everywhere, "Loaded" if everywhere else now.state.value, message)


def _progressing(now: ConditionInputs) -> Finding:
    if now.state is State.STARTING and now.observation.leaving:
        message = "A new pod is waiting for the previous one to finish its work and terminate."
        return Finding(ConditionType.PROGRESSING, True, "Draining", message)
    hindered = now.observation.start_blocker is not None
    return progressing(now.state, now.plan, held=now.is_held_at_zero, hindered=hindered)


def _degraded(now: ConditionInputs) -> Finding:
    failure = now.observation.failure or now.observation.late_start
    if failure:
        return Finding(ConditionType.DEGRADED, True, failure.reason, failure.message)
    if now.is_held_at_zero:
        return Finding(ConditionType.DEGRADED, True, "ScalerConflict", _held_message(now))
    unresponsive = _unresponsive(now)
    if unresponsive:
        return Finding(ConditionType.DEGRADED, True, "Unreachable", f"A pod is not responding: {unresponsive}")
    # What is observed takes precedence over what is remembered.
    if now.unproven:
        return Finding(ConditionType.DEGRADED, True, now.unproven.reason, now.unproven.message)
    return memory_not_released(now.state, now.last_unload) or as_expected()


def _held_message(now: ConditionInputs) -> str:
    other = now.observation.other_scaler
    return f"A pod is needed, but '{other}' keeps the Deployment at 0 replicas: see ScalerConflict."


def _unresponsive(now: ConditionInputs) -> str | None:
    return next((view.unresponsive for view in now.observation.pods if view.unresponsive), None)


def _scaler_conflict(now: ConditionInputs) -> Finding:
    other, deployment = now.observation.other_scaler, now.observation.deployment
    if other and deployment:
        name, namespace = deployment.metadata.name, deployment.metadata.namespace
        message = (
            f"'{other}' also sets the Deployment's replicas, so the operator no longer scales it. Remove that writer, "
            f"then clear its field ownership (metadata.managedFields): kubectl patch deployment {name} -n {namespace} "
            '--type=merge -p \'{"metadata":{"managedFields":[{}]}}\'.'
        )
        return Finding(ConditionType.SCALER_CONFLICT, True, "OtherScaler", message)
    return Finding(ConditionType.SCALER_CONFLICT, False, "Alone", "Nothing else scales the Deployment.")
