"""The conditions of a WhisperModel that one server runs from a model file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whisper_inference.standalone.manifest import ManifestError
from whispermodel import conditions as shared
from whispermodel.conditions import ConditionType, Finding
from whispermodel.planning.planner import Plan
from whispermodel.states import State
from whispermodel.status import LastUnload


@dataclass(frozen=True, slots=True)
class ConditionInputs:
    """What the conditions are derived from."""

    state: State
    """What the model is."""
    plan: Plan
    """What it should be."""
    failure: str | None = None
    """Why the last load failed, if it did."""
    changing: bool = False
    """Whether a process of the previous model still runs."""
    problem: ManifestError | None = None
    """Why the latest version of the file cannot be applied."""
    last_unload: LastUnload | None = None
    """The result of the last unload."""
    unfit: str | None = None
    """Why there is no room for the model, even if others make way."""

    @property
    def fails(self) -> bool:
        """Whether the last load failed; a retry in progress changes nothing until it succeeds."""
        return self.state is State.FAILED or (self.failure is not None and self.state is not State.ZERO)

    @property
    def failure_message(self) -> str:
        return self.failure or "The last load failed."


def findings(now: ConditionInputs) -> Iterator[Finding]:
    """Yield one finding for each type of condition."""
    yield _ready(now)
    yield _model_loaded(now)
    yield _progressing(now)
    yield _degraded(now)
    yield _schedule_valid(now)
    yield Finding(ConditionType.SCALER_CONFLICT, False, "Alone", "Nothing else scales this server.")


def _ready(now: ConditionInputs) -> Finding:
    if now.unfit:
        return Finding(ConditionType.READY, False, "ModelDoesNotFit", now.unfit)
    if now.fails:
        return Finding(ConditionType.READY, False, "LoadFailed", now.failure_message)
    return shared.refused(now.plan) or shared.ready(now.state)


def _model_loaded(now: ConditionInputs) -> Finding:
    loaded = now.state is State.LOADED
    message = "The model is in memory." if loaded else "The model is not in memory."
    return Finding(ConditionType.MODEL_LOADED, loaded, now.state.value, message)


def _progressing(now: ConditionInputs) -> Finding:
    if now.changing:
        message = "The previous model is unloaded when its running job ends; the next load uses the new one."
        return Finding(ConditionType.PROGRESSING, True, "ModelChanging", message)
    return shared.progressing(now.state, now.plan)


def _degraded(now: ConditionInputs) -> Finding:
    if now.unfit:
        return Finding(ConditionType.DEGRADED, True, "ModelDoesNotFit", now.unfit)
    if now.fails:
        return Finding(ConditionType.DEGRADED, True, "LoadFailed", now.failure_message)
    if now.problem and now.problem.reason != "InvalidSchedule":
        return Finding(ConditionType.DEGRADED, True, now.problem.reason, _message_of(now.problem))
    return shared.memory_not_released(now.state, now.last_unload) or shared.as_expected()


def _schedule_valid(now: ConditionInputs) -> Finding:
    if now.problem and now.problem.reason == "InvalidSchedule":
        return Finding(ConditionType.SCHEDULE_VALID, False, now.problem.reason, _message_of(now.problem))
    return shared.schedule_valid(now.plan)


def _message_of(problem: ManifestError) -> str:
    return f"{problem} The last valid version stays in effect until the file is fixed."
