"""Cases for tests of the planner: specs as people write them, observations, and a model that carries out its plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand
from whispermodel.planning.planner import Plan, Step, plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

EVENING: dict[str, object] = {"name": "evening", "cron": "0 20 * * *", "state": "Unloaded"}
MORNING: dict[str, object] = {"name": "morning", "cron": "0 7 * * *", "state": "Loaded"}
DAY: dict[str, object] = {"entries": [MORNING, EVENING]}
"""Loaded from 7 to 20, by the clock of Etc/UTC."""

_REACHES = {Step.SCALE_UP: State.UNLOADED, Step.LOAD: State.LOADED, Step.SCALE_DOWN: State.ZERO}
_PASSES = {
    Step.SCALE_UP: State.STARTING,
    Step.LOAD: State.LOADING,
    Step.UNLOAD_WARM: State.UNLOADING,
    Step.UNLOAD_COLD: State.UNLOADING,
}


def spec_of(**parts: object) -> Spec:
    """Read a spec from its fields as a manifest names them."""
    return Spec.model_validate({"model": {"size": "base"}, **parts})


def exception(name: str, start: str, end: str, *, state: Mode) -> dict[str, object]:
    return {"name": name, "from": start, "to": end, "state": state.value}


def utc(text: str) -> datetime:
    """Read a time; without an offset it is UTC."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def manual_command(mode: Mode, at: str) -> ManualCommand:
    return ManualCommand(mode, utc(at))


def worked(state: State, *, began: str, ended: str) -> Observed:
    """What is seen of a model whose last work ran from one time to another."""
    return Observed(state, work_began=utc(began), idle_since=utc(ended))


def passing(seen: Observed, step: Step) -> Observed:
    """What is seen while a step is in progress."""
    return replace(seen, state=_PASSES.get(step, seen.state), highest=None)


def reached(seen: Observed, step: Step) -> Observed:
    """What is seen when a step has been taken."""
    return replace(seen, state=_REACHES.get(step, State.UNLOADED), highest=None, warm=step is Step.UNLOAD_WARM)


@dataclass(slots=True)
class SimulatedModel:
    """A model that carries out its plan at once."""

    spec: Spec
    seen: Observed

    def plan(self, now: datetime) -> Plan:
        return plan(self.spec, self.seen, now)

    def settle(self, now: datetime, *, rounds: int = 4) -> list[Step]:
        """Take the plan's steps until there are none; return them. Raises AssertionError if they do not end."""
        taken: list[Step] = []
        for _ in range(rounds):
            steps = self.plan(now).steps
            if not steps:
                return taken
            self.seen = reached(self.seen, steps[0])
            taken += steps
        raise AssertionError(f"the plan's steps do not end: {taken}, then {self.plan(now)}")
