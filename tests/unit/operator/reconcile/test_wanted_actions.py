"""From a plan to actions: replicas, calls, and the resulting state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from testing.operator_harness import deployment_of, observation_of, plan_of, report_of, view_of
from testing.planner_cases import spec_of
from whisper_cluster.pods import Address
from whisper_operator.reconcile.calls_in_progress import PodAction, PodCall
from whisper_operator.reconcile.failures import Failure
from whisper_operator.reconcile.observation import PodView
from whisper_operator.reconcile.wanted_actions import resulting_state, wanted_calls, wanted_replicas
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, Step
from whispermodel.states import State

ADDRESS = Address("10.0.0.7")
AT_REST = replace(plan_of(State.LOADED, desiredState="Loaded"), steps=())
SUSPENDED = plan_of(State.LOADED, suspend=True)
WARM = view_of(report=report_of(State.UNLOADED, depth="warm"))
CRASH, NO_WEIGHTS = Failure("Crash", "."), Failure("LoadFailed", ".")
SILENT = view_of(None, unresponsive="timed out")


def planned(*steps: Step, target: State = State.LOADED) -> Plan:
    return replace(AT_REST, steps=steps, target=target)


UNLOAD_WARM = planned(Step.UNLOAD_WARM, target=State.UNLOADED)
UNLOAD_COLD = planned(Step.UNLOAD_COLD, target=State.UNLOADED)
SCALE_UP = planned(Step.SCALE_UP)
SCALE_DOWN = planned(Step.SCALE_DOWN, target=State.ZERO)


@pytest.mark.parametrize(
    ("there", "plan", "wanted"),
    [
        pytest.param(None, AT_REST, 0, id="a new model starts with none"),
        pytest.param(None, SCALE_UP, 3, id="a new model that is wanted"),
        pytest.param(0, AT_REST, 0, id="none stays none until a step wakes it"),
        pytest.param(0, SCALE_UP, 3, id="a step wakes all at once"),
        pytest.param(3, AT_REST, 3, id="as many as were asked for"),
        pytest.param(1, AT_REST, 3, id="more were asked for meanwhile"),
        pytest.param(5, AT_REST, 3, id="fewer were asked for meanwhile"),
        pytest.param(3, SCALE_DOWN, 0, id="to zero"),
        pytest.param(3, UNLOAD_COLD, 3, id="an unload keeps the pods"),
        pytest.param(1, SUSPENDED, 1, id="suspended, nothing changes though more were asked for"),
        pytest.param(0, SUSPENDED, 0, id="suspended at zero"),
    ],
)
def test_wanted_replicas(there: int | None, plan: Plan, wanted: int) -> None:
    deployment = None if there is None else deployment_of(there)
    found = wanted_replicas(spec_of(replicas=3), plan, observation_of(deployment=deployment), state=State.LOADED)
    assert found == wanted


@pytest.mark.parametrize(
    ("plan", "wanted"),
    [
        pytest.param(planned(target=State.ZERO), 0, id="nobody wants them any more"),
        pytest.param(replace(SUSPENDED, target=State.ZERO), 1, id="suspended, they are left as they are"),
        pytest.param(SCALE_UP, 3, id="they are still wanted"),
    ],
)
def test_wanted_replicas_at_zero(plan: Plan, wanted: int) -> None:
    found = wanted_replicas(spec_of(replicas=3), plan, observation_of(deployment=deployment_of(1)), state=State.ZERO)
    assert found == wanted


@pytest.mark.parametrize(
    ("plan", "view", "action"),
    [
        pytest.param(planned(Step.LOAD), view_of(State.UNLOADED), PodAction.LOAD, id="an unloaded pod is loaded"),
        pytest.param(AT_REST, view_of(State.LOADING), PodAction.LOAD, id="a load that somebody else began is joined"),
        pytest.param(planned(Step.LOAD), view_of(State.FAILED), PodAction.LOAD, id="a failed load is tried again"),
        pytest.param(AT_REST, view_of(State.UNLOADED), PodAction.LOAD, id="a pod that came later loads by itself"),
        pytest.param(AT_REST, view_of(State.LOADED), None, id="a loaded pod is left alone"),
        pytest.param(AT_REST, view_of(State.UNLOADING), None, id="an unload ends first"),
        pytest.param(planned(Step.LOAD), view_of(None), None, id="a pod that starts is not called"),
        pytest.param(planned(Step.LOAD), SILENT, None, id="a silent pod is not called"),
        pytest.param(UNLOAD_WARM, view_of(State.LOADED), PodAction.UNLOAD_WARM, id="idle, the zygote stays"),
        pytest.param(UNLOAD_WARM, WARM, None, id="idle and unloaded already"),
        pytest.param(UNLOAD_COLD, view_of(State.LOADED), PodAction.UNLOAD_COLD, id="ordered, nothing stays"),
        pytest.param(UNLOAD_COLD, view_of(State.LOADING), PodAction.UNLOAD_COLD, id="an unload overtakes a load"),
        pytest.param(UNLOAD_COLD, WARM, PodAction.UNLOAD_COLD, id="the zygote goes last"),
        pytest.param(UNLOAD_COLD, view_of(State.UNLOADED), None, id="unloaded already"),
        pytest.param(SCALE_DOWN, view_of(State.LOADED), None, id="a pod that goes need not be unloaded"),
        pytest.param(SUSPENDED, view_of(State.UNLOADED), None, id="suspended, nobody is called"),
    ],
)
def test_wanted_call(plan: Plan, view: PodView, action: PodAction | None) -> None:
    found = list(wanted_calls(plan, observation_of(view)))
    assert [call.action for call in found] == ([action] if action else [])


def test_each_pod_gets_its_own_call() -> None:
    views = [view_of(State.LOADED, name="a"), view_of(State.UNLOADED, name="b"), view_of(State.LOADING, name="c")]
    found = list(wanted_calls(UNLOAD_COLD, observation_of(*views)))
    assert found == [
        PodCall(PodAction.UNLOAD_COLD, "uid-a", ADDRESS, releases=True),
        PodCall(PodAction.UNLOAD_COLD, "uid-c", ADDRESS, releases=True),
    ]


def test_ending_a_zygote_releases_no_model() -> None:
    [call] = wanted_calls(UNLOAD_COLD, observation_of(WARM))
    assert not call.releases


@pytest.mark.parametrize(
    ("plan", "state", "blocked", "called"),
    [
        pytest.param(planned(Step.LOAD), State.FAILED, State.LOADING, False, id="a load after a load"),
        pytest.param(planned(Step.LOAD), State.UNLOADED, State.UNLOADING, True, id="a load after an unload"),
        pytest.param(UNLOAD_COLD, State.LOADED, State.UNLOADING, False, id="an unload after an unload"),
        pytest.param(UNLOAD_COLD, State.LOADED, State.LOADING, True, id="an unload after a load"),
    ],
)
def test_back_off_blocks_only_what_failed(plan: Plan, state: State, blocked: State, called: bool) -> None:
    failure = Failure("LoadFailed", ".") if state is State.FAILED else None
    observation = observation_of(view_of(state, failure=failure), blocked=blocked)
    assert bool(list(wanted_calls(plan, observation))) is called


@pytest.mark.parametrize(
    ("plan", "in_progress", "called"),
    [
        pytest.param(SCALE_UP, State.LOADING, None, id="a load does not overtake a load"),
        pytest.param(SCALE_UP, State.UNLOADING, None, id="a load waits for an unload"),
        pytest.param(UNLOAD_COLD, State.LOADING, PodAction.UNLOAD_COLD, id="an unload overtakes a load"),
        pytest.param(UNLOAD_COLD, State.UNLOADING, None, id="an unload does not overtake an unload"),
        pytest.param(UNLOAD_COLD, State.UNLOADED, None, id="the end of a zygote is awaited"),
    ],
)
def test_call_in_progress(plan: Plan, in_progress: State, called: PodAction | None) -> None:
    view = WARM.during(in_progress)
    found = list(wanted_calls(plan, observation_of(view)))
    assert [call.action for call in found] == ([called] if called else [])


def test_another_scalers_replicas_are_left_alone() -> None:
    scaled = observation_of(deployment=deployment_of(2, scaled_by="keda"))
    assert wanted_replicas(spec_of(replicas=3), SCALE_UP, scaled, state=State.ZERO) == 2


def started(action: PodAction, *, releases: bool = False) -> list[PodCall]:
    return [PodCall(action, "uid-a", ADDRESS, releases=releases)]


@pytest.mark.parametrize(
    ("seen", "plan", "observation", "calling", "state"),
    [
        pytest.param(State.ZERO, AT_REST, {}, [], State.ZERO, id="at rest it is what was seen"),
        pytest.param(State.ZERO, SCALE_UP, {}, [], State.STARTING, id="woken, it starts"),
        pytest.param(State.ZERO, SCALE_UP, {"deployment": deployment_of(0, scaled_by="keda")}, [], State.ZERO,
                     id="woken, it stays where another scaler holds it"),
        pytest.param(State.LOADED, SCALE_DOWN, {}, [], State.UNLOADING, id="on the way to zero it gives back"),
        pytest.param(State.ZERO, AT_REST, {"leaving": 1}, [], State.UNLOADING, id="until the last pod has gone"),
        pytest.param(State.LOADED, AT_REST, {"leaving": 1}, [], State.LOADED,
                     id="a pod that is replaced does not make it unload"),
        pytest.param(State.UNLOADED, AT_REST, {}, started(PodAction.LOAD), State.LOADING, id="a load has started"),
        pytest.param(State.FAILED, AT_REST, {}, started(PodAction.LOAD), State.LOADING, id="a load has started again"),
        pytest.param(State.LOADED, UNLOAD_WARM, {}, started(PodAction.UNLOAD_WARM, releases=True), State.UNLOADING,
                     id="an unload has started"),
        pytest.param(State.UNLOADED, UNLOAD_COLD, {}, started(PodAction.UNLOAD_COLD), State.UNLOADED,
                     id="dropping the zygote is no unload"),
        pytest.param(State.STARTING, AT_REST, {}, started(PodAction.LOAD), State.STARTING,
                     id="while another pod starts, that comes first"),
    ],
)  # fmt: skip
def test_resulting_state(
    seen: State, plan: Plan, observation: dict[str, Any], calling: list[PodCall], state: State
) -> None:
    assert resulting_state(seen, plan, observation_of(**observation), started=calling) is state


@pytest.mark.parametrize(
    ("ailing", "state"),
    [
        pytest.param(view_of(None, failure=CRASH), State.FAILED, id="it cannot"),
        pytest.param(view_of(State.LOADING, failure=NO_WEIGHTS), State.STARTING,
                     id="another one answers, and fails to load"),
    ],
)  # fmt: skip
def test_start_blocker_makes_a_starting_model_failed(ailing: PodView, state: State) -> None:
    observation = observation_of(ailing, view_of(None, name="base-2"))
    assert resulting_state(State.STARTING, AT_REST, observation, started=[]) is state


def test_suspended_plan_has_no_steps() -> None:
    assert (SUSPENDED.reason, SUSPENDED.steps) == (Reason.SUSPENDED, ())
