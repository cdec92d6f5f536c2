"""From a plan to actions: which pods to call, how many pods to run, and the state that results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whisper_operator.reconcile.calls_in_progress import PodAction, PodCall
from whisper_operator.reconcile.observation import Observation, PodView
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, Step
from whispermodel.spec import Spec
from whispermodel.states import Depth, State

_HOLDING = (State.LOADING, State.LOADED)


def wanted_calls(planned: Plan, observation: Observation) -> Iterator[PodCall]:
    """Yield a call for each pod that is not where the plan wants it, unless one is in progress or backing off."""
    if planned.reason is Reason.SUSPENDED:
        return
    for view in observation.pods:
        action = _action(planned, view)
        if action is None or view.address is None or action.transition is observation.blocked:
            continue
        # Only a load can be overtaken: the server cancels it for an unload.
        if view.call is None or (view.call is State.LOADING and action is not PodAction.LOAD):
            yield PodCall(action, view.pod.metadata.uid, view.address, releases=view.state in _HOLDING)


def _action(planned: Plan, view: PodView) -> PodAction | None:
    if view.report is None:
        return None
    if planned.target is State.LOADED:
        # Join a load that somebody else started, for its receipt. Each pod loads as soon as it can.
        return PodAction.LOAD if view.state in (State.UNLOADED, State.LOADING, State.FAILED) else None
    if Step.UNLOAD_WARM in planned.steps and view.state in _HOLDING:
        return PodAction.UNLOAD_WARM
    if Step.UNLOAD_COLD in planned.steps and (view.state in _HOLDING or view.report.depth is Depth.WARM):
        return PodAction.UNLOAD_COLD
    return None


def wanted_replicas(spec: Spec, planned: Plan, observation: Observation, *, state: State) -> int:
    """Return how many pods there should be: none stays none until a step wakes the model.

    state: the observed one. At Zero, no step takes back pods that were requested and never came. Another scaler's
    number is left alone.
    """
    current = observation.deployment.spec.replicas if observation.deployment else 0
    if observation.other_scaler is not None or planned.reason is Reason.SUSPENDED:
        return current
    if Step.SCALE_DOWN in planned.steps or state is planned.target is State.ZERO:
        return 0
    if Step.SCALE_UP in planned.steps:
        return spec.replicas
    return current and spec.replicas


def leads_down(calls: Sequence[PodCall], replicas: int, observation: Observation) -> bool:
    """Return whether these actions would unload a model, or end its pods: what new demand would have prevented."""
    current = observation.deployment.spec.replicas if observation.deployment else 0
    return replicas == 0 < current or any(call.action is not PodAction.LOAD for call in calls)


def resulting_state(state: State, planned: Plan, observation: Observation, *, started: Sequence[PodCall]) -> State:
    """Return the model's state after acting. state: the observed one. started: the calls just started."""
    if Step.SCALE_UP in planned.steps and not observation.is_held_at_zero:
        return State.FAILED if observation.start_blocker else State.STARTING
    if state is State.STARTING and observation.start_blocker:
        return State.FAILED
    if Step.SCALE_DOWN in planned.steps or (state is State.ZERO and observation.leaving):
        return State.UNLOADING
    transitions = [call.action.transition for call in started if call.transition is not State.UNLOADED]
    return transitions[0] if transitions and state is not State.STARTING else state
