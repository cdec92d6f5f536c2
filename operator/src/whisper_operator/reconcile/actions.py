"""From a plan to deeds: how many pods there should be, which of them are called, and what that makes of the state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from whisper_cluster.objects import Deployment
from whisper_cluster.pods import Address
from whisper_operator.reconcile.observe import PodView, Scene
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, Step
from whispermodel.spec import Spec, State

_HOLDING = (State.LOADING, State.LOADED)


class Deed(StrEnum):
    """What a pod is called for."""

    LOAD = "load"
    UNLOAD_WARM = "warm"
    UNLOAD_COLD = "cold"

    @property
    def brings(self) -> State:
        """The state of a pod that does it."""
        return State.LOADING if self is Deed.LOAD else State.UNLOADING


@dataclass(frozen=True, slots=True)
class Call:
    """One call to one pod. releases: whether a model is in its memory, and not only a zygote."""

    deed: Deed
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


def calls(planned: Plan, scene: Scene, *, held_back: State | None) -> Iterator[Call]:
    """Yield a call for each pod that is not where the plan has it. held_back: what no call may bring now."""
    if planned.reason is Reason.SUSPENDED:
        return
    for view in scene.pods:
        deed = _deed(planned, view)
        if deed is not None and deed.brings is not held_back and view.address is not None:
            yield Call(deed, view.pod.metadata.uid, view.address, releases=view.state in _HOLDING)


def _deed(planned: Plan, view: PodView) -> Deed | None:
    if view.report is None:
        return None
    if planned.target is State.LOADED:
        # A load that somebody else began is joined, for its receipt; each pod loads as soon as it can.
        return Deed.LOAD if view.state in (State.UNLOADED, State.LOADING, State.FAILED) else None
    if Step.UNLOAD_WARM in planned.steps and view.state in _HOLDING:
        return Deed.UNLOAD_WARM
    if Step.UNLOAD_COLD in planned.steps and (view.state in _HOLDING or view.report.depth == "warm"):
        return Deed.UNLOAD_COLD
    return None


def state_of(seen: Observed, scene: Scene, planned: Plan, begun: Sequence[Call]) -> State:
    """Return the state of the model with what was just begun; no pod begins to start that another scaler holds back."""
    if Step.SCALE_UP in planned.steps and not scene.is_held_at_zero:
        return State.FAILED if scene.hindrance else State.STARTING
    if seen.state is State.STARTING and scene.hindrance:
        return State.FAILED
    if Step.SCALE_DOWN in planned.steps or (seen.state is State.ZERO and scene.leaving):
        return State.UNLOADING
    moves = [call.deed.brings for call in begun if call.releases or call.deed is Deed.LOAD]
    return moves[0] if moves and seen.state is not State.STARTING else seen.state
