"""Steps of a plan, depth of unloads, several replicas: the rules of docs/planning.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testing.planner_cases import DAY, SimulatedModel, exception, manual_command, minutes, spec_of, utc, worked
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import Step, plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

NOON = utc("2026-11-25T12:00")
IDLE = spec_of(idle={"unloadAfter": "10m", "scaleToZeroAfter": "1h"})


# One transition in flight


@pytest.mark.parametrize(
    ("mode", "state", "steps"),
    [
        pytest.param("Loaded", State.ZERO, (Step.SCALE_UP,), id="a pod comes before its model"),
        pytest.param("Loaded", State.STARTING, (), id="a pod that starts is waited for"),
        pytest.param("Loaded", State.UNLOADED, (Step.LOAD,), id="a pod that is there is loaded"),
        pytest.param("Loaded", State.LOADING, (), id="a load in progress is waited for"),
        pytest.param("Loaded", State.LOADED, (), id="a loaded model needs nothing"),
        pytest.param("Loaded", State.UNLOADING, (), id="an unload that has begun is waited for before the load"),
        pytest.param("Unloaded", State.ZERO, (Step.SCALE_UP,), id="an unloaded model has a pod"),
        pytest.param("Unloaded", State.STARTING, (), id="a pod that starts is unloaded already"),
        pytest.param(
            "Unloaded", State.LOADING, (Step.UNLOAD_COLD,), id="a load in progress that leads away is cancelled"
        ),
        pytest.param("Unloaded", State.LOADED, (Step.UNLOAD_COLD,), id="a loaded model is released"),
        pytest.param("Unloaded", State.UNLOADING, (), id="an unload in progress is waited for"),
        pytest.param("Unloaded", State.UNLOADED, (), id="an unloaded model needs nothing"),
        pytest.param("Zero", State.STARTING, (Step.SCALE_DOWN,), id="a pod that starts and is not wanted goes"),
        pytest.param("Zero", State.LOADED, (Step.UNLOAD_COLD,), id="the model goes before its pod"),
        pytest.param("Zero", State.UNLOADING, (), id="a pod that unloads is not taken away under it"),
        pytest.param("Zero", State.UNLOADED, (Step.SCALE_DOWN,), id="then the pod goes"),
        pytest.param("Zero", State.FAILED, (Step.SCALE_DOWN,), id="a pod that failed goes"),
        pytest.param("Zero", State.ZERO, (), id="at zero there is nothing to do"),
        pytest.param("Unloaded", State.FAILED, (), id="a failed load that nobody wants is left alone"),
    ],
)
def test_one_step_at_a_time(mode: str, state: State, steps: tuple[Step, ...]) -> None:
    assert plan(spec_of(desiredState=mode), Observed(state), NOON).steps == steps


def test_a_failed_load_is_tried_again_when_its_back_off_ends() -> None:
    failed = Observed(State.FAILED, retry_at=NOON)
    spec = spec_of(desiredState="Loaded")
    before = plan(spec, failed, NOON - minutes(1))
    assert (before.steps, before.check_at) == ((), NOON)
    assert plan(spec, failed, NOON).steps == (Step.LOAD,)


# How deep an unload goes


@pytest.mark.parametrize(
    ("after", "warm", "steps"),
    [
        pytest.param(10, False, (Step.UNLOAD_WARM,), id="an idle unload keeps the zygote"),
        pytest.param(19.99, True, (), id="the zygote stays for as long again as unloadAfter"),
        pytest.param(20, True, (Step.UNLOAD_COLD,), id="then it is dropped"),
        pytest.param(20, False, (), id="nothing is dropped twice"),
    ],
)
def test_an_idle_unload_is_warm_at_first(after: float, warm: bool, steps: tuple[Step, ...]) -> None:
    state = State.LOADED if Step.UNLOAD_WARM in steps else State.UNLOADED
    seen = replace(worked(state, began="2026-11-25T11:50", ended="2026-11-25T12:00"), warm=warm)
    assert plan(IDLE, seen, NOON + minutes(after)).steps == steps


def test_an_idle_unload_that_comes_late_is_cold() -> None:
    seen = worked(State.LOADED, began="2026-11-25T11:50", ended="2026-11-25T12:00")
    assert plan(IDLE, seen, NOON + minutes(20)).steps == (Step.UNLOAD_COLD,)


COLD = [
    pytest.param(spec_of(schedule=DAY), None, id="the schedule"),
    pytest.param(spec_of(override={"state": "Unloaded", "until": "2026-11-27T00:00:00Z"}), None, id="an override"),
    pytest.param(spec_of(desiredState="Unloaded"), None, id="desiredState"),
    pytest.param(
        spec_of(
            schedule={
                "exceptions": [exception("fair", "2026-11-25T20:00:00Z", "2026-11-26T00:00:00Z", state=Mode.UNLOADED)]
            }
        ),
        None,
        id="an exception",
    ),
    pytest.param(spec_of(), "2026-11-25T20:05:00Z", id="an explicit call"),
]


@pytest.mark.parametrize(("spec", "called_at"), COLD)
@pytest.mark.parametrize(
    ("state", "warm"), [pytest.param(State.LOADED, False, id="loaded"), pytest.param(State.UNLOADED, True, id="warm")]
)
def test_an_unload_goes_cold_at_once_by(spec: Spec, called_at: str | None, state: State, warm: bool) -> None:
    seen = replace(
        worked(state, began="2026-11-25T19:50", ended="2026-11-25T20:00"),
        warm=warm,
        manual=manual_command(Mode.UNLOADED, called_at) if called_at else None,
        spec_since=utc("2026-11-25T19:55"),
    )
    assert plan(spec, seen, utc("2026-11-25T20:05")).steps == (Step.UNLOAD_COLD,)


def test_a_failed_load_leaves_no_zygote_behind() -> None:
    spec = spec_of(desired_state="Unloaded")
    assert plan(spec, Observed(State.FAILED, warm=True), utc("2026-11-25T12:00")).steps == (Step.UNLOAD_COLD,)


def test_the_plan_is_reconsidered_at_each_resting_state() -> None:
    model = SimulatedModel(IDLE, worked(State.LOADED, began="2026-11-25T11:50", ended="2026-11-25T12:00"))
    now, story = NOON, list[tuple[float, list[Step]]]()
    while (check_at := model.plan(now).check_at) is not None:
        now = check_at
        story.append(((now - NOON).total_seconds() / 60, model.settle(now)))
    assert story == [(10, [Step.UNLOAD_WARM]), (20, [Step.UNLOAD_COLD]), (60, [Step.SCALE_DOWN])]


# Several replicas


def test_the_state_of_several_is_ordered_from_failed_to_loaded() -> None:
    assert [state.value for state in sorted(State, key=lambda state: state.rank)] == [
        *("Failed", "Zero", "Starting", "Unloading", "Unloaded", "Loading", "Loaded")
    ]


@pytest.mark.parametrize(
    ("mode", "lowest", "highest", "steps"),
    [
        pytest.param("Loaded", State.UNLOADED, State.LOADED, (Step.LOAD,), id="one of them is not loaded"),
        pytest.param("Loaded", State.STARTING, State.LOADED, (), id="one of them starts"),
        pytest.param("Loaded", State.LOADING, State.LOADED, (), id="one of them loads"),
        pytest.param("Unloaded", State.UNLOADED, State.LOADED, (Step.UNLOAD_COLD,), id="one of them is still loaded"),
        pytest.param("Unloaded", State.STARTING, State.LOADED, (Step.UNLOAD_COLD,), id="one is loaded, another starts"),
        pytest.param("Unloaded", State.UNLOADING, State.UNLOADED, (), id="one of them still unloads"),
        pytest.param("Zero", State.UNLOADED, State.LOADED, (Step.UNLOAD_COLD,), id="the loaded one is asked first"),
        pytest.param("Zero", State.UNLOADING, State.UNLOADED, (), id="one of them still unloads before the pods go"),
        pytest.param("Zero", State.UNLOADED, State.UNLOADED, (Step.SCALE_DOWN,), id="all of them are unloaded"),
        pytest.param("Zero", State.FAILED, State.UNLOADED, (Step.SCALE_DOWN,), id="one of them failed"),
        pytest.param("Unloaded", State.FAILED, State.LOADED, (Step.UNLOAD_COLD,), id="one failed, one is loaded"),
    ],
)
def test_of_several_replicas(mode: str, lowest: State, highest: State, steps: tuple[Step, ...]) -> None:
    assert plan(spec_of(desiredState=mode, replicas=2), Observed(lowest, highest=highest), NOON).steps == steps


def test_the_replicas_that_hold_the_model_are_what_unknown_activity_keeps() -> None:
    seen = Observed(State.UNLOADED, highest=State.LOADED, unresponsive_since=NOON)
    planned = plan(spec_of(replicas=2), seen, NOON)
    assert (planned.target, planned.steps) == (State.LOADED, ()), "it loads nothing in the pods that respond"
