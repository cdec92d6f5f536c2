"""The conditions of a WhisperModel that one server obeys, each from what was seen and decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from whisper_inference.standalone.manifest import ManifestError
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan
from whispermodel.spec import State
from whispermodel.status import Condition, LastUnload

_READY_WORDS = {
    State.LOADED: "A request is served at once.",
    State.LOADING: "A request waits until the model is loaded.",
}
_AWAITED = {
    State.LOADING: "The model is being loaded into memory.",
    State.UNLOADING: "The model's memory is being given back.",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """What conditions are judged by.

    failure: the words of the last load, if it failed. changing: a process of the former model is still there.
    problem: why the file's latest version is not obeyed.
    """

    state: State
    plan: Plan
    failure: str | None = None
    changing: bool = False
    problem: ManifestError | None = None
    last_unload: LastUnload | None = None

    @property
    def fails(self) -> bool:
        """Whether the last load failed; one under way changes nothing of that before it has succeeded."""
        return self.state is State.FAILED or (self.failure is not None and self.state is not State.ZERO)

    @property
    def failure_words(self) -> str:
        return self.failure or "The last load failed."


@dataclass(frozen=True, slots=True)
class _Finding:
    type: str
    holds: bool
    reason: str
    message: str


def conditions(
    now: Situation, before: tuple[Condition, ...], *, generation: int, at: datetime
) -> tuple[Condition, ...]:
    """Return one condition of each type; what did not change keeps its time."""
    known = {condition.type: condition for condition in before}
    return tuple(_dated(finding, known.get(finding.type), generation=generation, at=at) for finding in _findings(now))


def _dated(finding: _Finding, old: Condition | None, *, generation: int, at: datetime) -> Condition:
    status = "True" if finding.holds else "False"
    return Condition(
        type=finding.type,
        status=status,
        reason=finding.reason,
        message=finding.message,
        last_transition_time=old.last_transition_time if old and old.status == status else at,
        observed_generation=generation,
    )


def _findings(now: Situation) -> Iterator[_Finding]:
    yield _ready(now)
    loaded = now.state is State.LOADED
    words = "The model is in memory." if loaded else "The model is not in memory."
    yield _Finding("ModelLoaded", loaded, now.state.value, words)
    yield _progressing(now)
    yield _degraded(now)
    yield _schedule_valid(now)
    yield _Finding("ScalerConflict", False, "Alone", "Nothing else scales this server.")


def _ready(now: Situation) -> _Finding:
    if now.fails:
        return _Finding("Ready", False, "LoadFailed", now.failure_words)
    if not now.plan.accepts:
        until = f" until {now.plan.accepts_at:%Y-%m-%d %H:%M %Z}" if now.plan.accepts_at else ""
        return _Finding("Ready", False, "Refused", f"New work is refused{until}: demandPolicy is Refuse.")
    return _Finding("Ready", True, now.state.value, _READY_WORDS.get(now.state, "A request loads the model first."))


def _progressing(now: Situation) -> _Finding:
    if now.changing:
        words = "The former model goes when its running job ends; the next load brings the new one."
        return _Finding("Progressing", True, "ModelChanging", words)
    if now.state in _AWAITED:
        return _Finding("Progressing", True, now.state.value, _AWAITED[now.state])
    let_be = (now.state, now.plan.target) == (State.FAILED, State.UNLOADED) and not now.plan.steps
    if now.state is not now.plan.target and now.plan.reason is not Reason.SUSPENDED and not let_be:
        return _Finding("Progressing", True, now.state.value, f"{now.state} is on its way to {now.plan.target}.")
    return _Finding("Progressing", False, "AtRest", "Nothing is under way.")


def _degraded(now: Situation) -> _Finding:
    if now.fails:
        return _Finding("Degraded", True, "LoadFailed", now.failure_words)
    if now.problem and now.problem.reason != "InvalidSchedule":
        return _Finding("Degraded", True, now.problem.reason, _kept(now.problem))
    unload = now.last_unload
    if now.state is State.UNLOADED and unload and not unload.fully_released:
        words = "The last unload did not give all of its GPU memory back: something else holds it, see nvidia-smi."
        return _Finding("Degraded", True, "MemoryNotReleased", words)
    return _Finding("Degraded", False, "AsAsked", "It works as asked.")


def _schedule_valid(now: Situation) -> _Finding:
    if now.problem and now.problem.reason == "InvalidSchedule":
        return _Finding("ScheduleValid", False, now.problem.reason, _kept(now.problem))
    if now.plan.problem:
        return _Finding(
            "ScheduleValid", False, "InvalidSchedule", f"The schedule cannot be obeyed: {now.plan.problem}."
        )
    return _Finding("ScheduleValid", True, "Valid", "The zone exists and every entry can fire.")


def _kept(problem: ManifestError) -> str:
    return f"{problem} Its last good version is obeyed until it is mended."
