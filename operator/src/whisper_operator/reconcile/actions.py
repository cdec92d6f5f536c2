"""From a plan to calls: how many pods there should be, which of them are called, and what that makes of the state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from whisper_cluster.objects import Deployment
from whisper_cluster.pods import Address
from whisper_operator.reconcile.observe import Observation, PodView
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, Step
from whispermodel.spec import Spec, State

_HOLDING = (State.LOADING, State.LOADED)


class PodAction(StrEnum):
    """What a pod is called for."""

    LOAD = "load"
    UNLOAD_WARM = "warm"
    UNLOAD_COLD = "cold"

    @property
    def transition(self) -> State:
        """The state of a pod that does it."""
        return State.LOADING if self is PodAction.LOAD else State.UNLOADING


@dataclass(frozen=True, slots=True)
class PodCall:
    """One call to one pod. releases: whether a model is in its memory, and not only a zygote."""

    action: PodAction
    pod: str
    address: Address
    releases: bool


def replicas(spec: Spec, there: Deployment | None, planned: Plan, *, seen: State) -> int:
    """Return how many pods there should be: none stays none until a step wakes it.

    seen: the model's state. At Zero there is no step to take back pods that were asked for and never came.
    """
    current = there.spec.replicas if there else 0
    if planned.reason is Reason.SUSPENDED:
        return current
    if Step.SCALE_DOWN in planned.steps or seen is planned.target is State.ZERO:
        return 0
    if Step.SCALE_UP in planned.steps:
        return spec.replicas
    return current and spec.replicas


def calls(planned: Plan, observation: Observation, *, blocked: State | None) -> Iterator[PodCall]:
    """Yield a call for each pod that is not where the plan has it. blocked: what no call may bring now."""
    if planned.reason is Reason.SUSPENDED:
        return
    for view in observation.pods:
        action = _action(planned, view)
        if action is not None and action.transition is not blocked and view.address is not None:
            yield PodCall(action, view.pod.metadata.uid, view.address, releases=view.state in _HOLDING)


def _action(planned: Plan, view: PodView) -> PodAction | None:
    if view.report is None:
        return None
    if planned.target is State.LOADED:
        # A load that somebody else began is joined, for its receipt; each pod loads as soon as it can.
        return PodAction.LOAD if view.state in (State.UNLOADED, State.LOADING, State.FAILED) else None
    if Step.UNLOAD_WARM in planned.steps and view.state in _HOLDING:
        return PodAction.UNLOAD_WARM
    if Step.UNLOAD_COLD in planned.steps and (view.state in _HOLDING or view.report.depth == "warm"):
        return PodAction.UNLOAD_COLD
    return None


def state_of(seen: Observed, observation: Observation, planned: Plan, started: Sequence[PodCall]) -> State:
    """Return the state of the model, given the calls just started; another scaler may keep a pod from starting."""
    if Step.SCALE_UP in planned.steps and not observation.is_held_at_zero:
        return State.FAILED if observation.start_blocker else State.STARTING
    if seen.state is State.STARTING and observation.start_blocker:
        return State.FAILED
    if Step.SCALE_DOWN in planned.steps or (seen.state is State.ZERO and observation.leaving):
        return State.UNLOADING
    moves = [call.action.transition for call in started if call.releases or call.action is PodAction.LOAD]
    return moves[0] if moves and seen.state is not State.STARTING else seen.state
