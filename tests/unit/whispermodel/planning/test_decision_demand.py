"""Demand, idle times and unknown activity: the rules of docs/planning.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testing.planner_cases import DAY, EVENING, MORNING, SimulatedModel, manual_command, minutes, spec_of, utc, worked
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Step, plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

NOON = utc("2026-11-25T12:00")
NIGHT = utc("2026-11-25T23:00")
DAYTIME = {"name": "day", "cron": "0 6 * * *", "state": "Auto"}
FALLS_TO_ZERO = spec_of(idle={"unloadAfter": "10m", "scaleToZeroAfter": "1h"})
EVERY_MODE = [
    pytest.param(spec_of(desiredState="Loaded"), id="desiredState Loaded"),
    pytest.param(spec_of(desiredState="Unloaded"), id="desiredState Unloaded"),
    pytest.param(spec_of(desiredState="Zero"), id="desiredState Zero"),
    pytest.param(FALLS_TO_ZERO, id="Auto"),
    pytest.param(spec_of(override={"state": "Zero", "until": "2026-11-26T00:00:00Z"}), id="an override to Zero"),
    pytest.param(spec_of(schedule=DAY), id="a schedule"),
]


# Mode Auto


@pytest.mark.parametrize(
    ("spec", "after", "target"),
    [
        pytest.param(spec_of(), 14.99, State.LOADED, id="stays loaded for unloadAfter, 15m by default"),
        pytest.param(spec_of(), 15, State.UNLOADED, id="is unloaded from then on"),
        pytest.param(spec_of(), 525_600, State.UNLOADED, id="never goes to zero where scaleToZeroAfter is unset"),
        pytest.param(FALLS_TO_ZERO, 9.99, State.LOADED, id="stays loaded for the unloadAfter of the spec"),
        pytest.param(FALLS_TO_ZERO, 10, State.UNLOADED, id="unloads at unloadAfter"),
        pytest.param(FALLS_TO_ZERO, 59.99, State.UNLOADED, id="keeps its pod until scaleToZeroAfter"),
        pytest.param(FALLS_TO_ZERO, 60, State.ZERO, id="goes to zero at scaleToZeroAfter, counted from the work's end"),
        pytest.param(
            spec_of(idle={"unloadAfter": "0s"}), 0, State.UNLOADED, id="unloads at once where unloadAfter is 0s"
        ),
    ],
)
def test_after_the_last_work_a_model_in_auto(spec: Spec, after: float, target: State) -> None:
    planned = plan(
        spec, worked(State.LOADED, began="2026-11-25T11:50", ended="2026-11-25T12:00"), NOON + minutes(after)
    )
    assert planned.target is target


@pytest.mark.parametrize("state", [State.ZERO, State.UNLOADED, State.LOADED])
@pytest.mark.parametrize(
    ("spec", "lowest"),
    [
        pytest.param(FALLS_TO_ZERO, State.ZERO, id="zero where scaleToZeroAfter is set"),
        pytest.param(spec_of(), State.UNLOADED, id="unloaded where it is not"),
    ],
)
def test_before_any_work_the_lowest_state_configured(spec: Spec, lowest: State, state: State) -> None:
    planned = plan(spec, Observed(state), NOON)
    assert (planned.target, planned.reason, planned.check_at) == (lowest, Reason.IDLE, None)


def test_in_auto_nothing_loads_until_a_schedule_asks_for_it() -> None:
    spec = spec_of(schedule={"entries": [MORNING, DAYTIME]})
    assert plan(spec, Observed(State.UNLOADED), utc("2026-11-25T06:59")).target is State.UNLOADED
    assert plan(spec, Observed(State.UNLOADED), utc("2026-11-25T07:00")).target is State.LOADED


@pytest.mark.parametrize(
    ("state", "highest"),
    [
        pytest.param(State.LOADING, None, id="one pod"),
        pytest.param(State.LOADING, State.LOADED, id="the last of several"),
        pytest.param(State.UNLOADED, State.LOADING, id="the first of several"),
    ],
)
def test_idleness_never_runs_while_loading(state: State, highest: State | None) -> None:
    seen = replace(worked(state, began="2026-11-25T08:00", ended="2026-11-25T09:00"), highest=highest)
    assert plan(FALLS_TO_ZERO, seen, NOON).target is State.LOADED


# Demand


@pytest.mark.parametrize("spec", EVERY_MODE)
@pytest.mark.parametrize(
    ("running", "waiting"), [pytest.param(1, 0, id="running work"), pytest.param(0, 1, id="waiting work")]
)
def test_demand_wins_upwards_in_every_mode(spec: Spec, running: int, waiting: int) -> None:
    model = SimulatedModel(spec, Observed(State.ZERO, in_flight=running, waiting=waiting))
    assert model.plan(NIGHT).target is State.LOADED
    assert model.settle(NIGHT) == [Step.SCALE_UP, Step.LOAD]


def test_suspend_is_the_only_mode_that_demand_does_not_change() -> None:
    assert plan(spec_of(suspend=True), Observed(State.ZERO, waiting=1), NIGHT).target is State.ZERO


def test_a_planned_unload_waits_for_running_work_and_happens_when_it_ends() -> None:
    running = Observed(State.LOADED, in_flight=1, work_began=utc("2026-11-25T19:50"))
    at_the_fire, later = utc("2026-11-25T20:00"), utc("2026-11-25T21:30")
    assert plan(spec_of(schedule=DAY), running, at_the_fire).steps == ()
    assert plan(spec_of(schedule=DAY), running, later).steps == ()
    ended = replace(running, in_flight=0, idle_since=later)
    assert plan(spec_of(schedule=DAY), ended, later).steps == (Step.UNLOAD_COLD,)


def test_a_planned_unload_waits_for_waiting_work_too() -> None:
    assert plan(spec_of(schedule=DAY), Observed(State.LOADED, waiting=1), utc("2026-11-25T20:00")).steps == ()


def test_an_explicit_unload_does_not_wait_for_the_queue_and_the_next_job_reloads() -> None:
    manually_unloaded = Observed(State.UNLOADED, waiting=2, manual=manual_command(Mode.UNLOADED, "2026-11-25T12:00"))
    planned = plan(spec_of(), manually_unloaded, NOON)
    assert (planned.reason, planned.steps) == (Reason.DEMAND, (Step.LOAD,))


def test_a_fire_downwards_releases_at_once_when_nothing_runs() -> None:
    just_ended = worked(State.LOADED, began="2026-11-25T19:58", ended="2026-11-25T19:59")
    assert plan(spec_of(schedule=DAY), just_ended, utc("2026-11-25T20:00")).steps == (Step.UNLOAD_COLD,)


@pytest.mark.parametrize(
    ("began", "target"),
    [
        pytest.param("2026-11-25T19:59:59", State.UNLOADED, id="work that began before the fire does not"),
        pytest.param("2026-11-25T20:00:00", State.LOADED, id="work that began with the fire does"),
        pytest.param("2026-11-25T20:10:00", State.LOADED, id="work that began after the fire does"),
    ],
)
def test_only_work_that_started_executing_after_the_fire_holds_the_model_up(began: str, target: State) -> None:
    seen = worked(State.LOADED, began=began, ended="2026-11-25T20:30")
    assert plan(spec_of(schedule=DAY), seen, utc("2026-11-25T20:40")).target is target


@pytest.mark.parametrize(
    ("spec", "resting"),
    [
        pytest.param(spec_of(schedule=DAY), State.UNLOADED, id="to what the schedule says"),
        pytest.param(spec_of(desiredState="Zero"), State.ZERO, id="to desiredState Zero"),
        pytest.param(
            spec_of(override={"state": "Zero", "until": "2026-11-27T00:00:00Z"}), State.ZERO, id="to the override"
        ),
        pytest.param(spec_of(desiredState="Loaded"), State.LOADED, id="to Loaded, where it stays"),
    ],
)
def test_after_demand_a_model_stays_for_unload_after_and_falls_back(spec: Spec, resting: State) -> None:
    ended = worked(State.LOADED, began="2026-11-25T22:00", ended="2026-11-25T23:00")
    assert plan(spec, ended, utc("2026-11-25T23:14:59")).target is State.LOADED
    assert plan(spec, ended, utc("2026-11-25T23:15:00")).target is resting


def test_a_downward_fire_ends_the_stay_of_work_that_began_before_it() -> None:
    spec = spec_of(schedule={"entries": [EVENING, {"name": "late", "cron": "30 22 * * *", "state": "Zero"}]})
    ended = worked(State.LOADED, began="2026-11-25T22:10", ended="2026-11-25T22:20")
    assert plan(spec, ended, utc("2026-11-25T22:29")).target is State.LOADED
    assert plan(spec, ended, utc("2026-11-25T22:30")).target is State.ZERO


def test_work_that_began_before_the_spec_was_changed_does_not_hold_the_model_up() -> None:
    ended = worked(State.LOADED, began="2026-11-25T22:00", ended="2026-11-25T22:59")
    changed_later = replace(ended, spec_since=utc("2026-11-25T22:30"))
    assert plan(spec_of(desiredState="Unloaded"), changed_later, NIGHT).target is State.UNLOADED


def test_running_work_is_what_the_plan_tells_of_though_other_work_ended_lately() -> None:
    seen = replace(worked(State.LOADED, began="2026-11-25T11:55", ended="2026-11-25T11:50"), in_flight=1)
    planned = plan(spec_of(), seen, NOON)
    assert planned.message == "Loaded: requests are running or waiting; stays loaded for 15m afterwards."
    assert planned.next_transition is None


# Refusing new work


REFUSING = spec_of(demandPolicy="Refuse", schedule={"entries": [MORNING, EVENING, DAYTIME]})


@pytest.mark.parametrize(
    ("at", "accepts", "accepts_at"),
    [
        pytest.param("2026-11-25T19:59", True, None, id="not while the mode is Loaded"),
        pytest.param("2026-11-25T20:00", False, "2026-11-26T06:00", id="while the mode is Unloaded"),
        pytest.param("2026-11-26T06:00", True, None, id="not while the mode is Auto"),
    ],
)
def test_new_work_is_refused(at: str, accepts: bool, accepts_at: str | None) -> None:
    planned = plan(REFUSING, Observed(State.UNLOADED), utc(at))
    assert (planned.accepts, planned.accepts_at) == (accepts, utc(accepts_at) if accepts_at else None)


@pytest.mark.parametrize("mode", ["Zero", "Unloaded"])
def test_new_work_is_refused_for_ever_where_nothing_brings_another_mode(mode: str) -> None:
    planned = plan(spec_of(demandPolicy="Refuse", desiredState=mode), Observed(State.ZERO), NOON)
    assert (planned.accepts, planned.accepts_at) == (False, None)


@pytest.mark.parametrize("mode", ["Zero", "Unloaded"])
def test_the_default_policy_wakes_and_refuses_nothing(mode: str) -> None:
    assert plan(spec_of(desiredState=mode), Observed(State.ZERO), NOON).accepts


def test_a_suspended_model_refuses_nothing_since_a_running_pod_still_loads() -> None:
    spec = spec_of(demandPolicy="Refuse", desiredState="Unloaded", suspend=True)
    assert plan(spec, Observed(State.UNLOADED), NOON).accepts


def test_accepted_work_always_finishes_though_new_work_is_refused() -> None:
    planned = plan(REFUSING, Observed(State.LOADED, in_flight=1), NIGHT)
    assert (planned.accepts, planned.target, planned.steps) == (False, State.LOADED, ())


# Activity that is unknown


@pytest.mark.parametrize(
    ("after", "target"),
    [
        pytest.param(0, State.LOADED, id="is not idleness"),
        pytest.param(4.99, State.LOADED, id="is not idleness for 5 minutes"),
        pytest.param(5, State.UNLOADED, id="is somebody else's after 5 minutes, and the plan goes on"),
    ],
)
def test_unknown_activity(after: float, target: State) -> None:
    seen = replace(worked(State.LOADED, began="2026-11-25T11:00", ended="2026-11-25T11:30"), unresponsive_since=NOON)
    planned = plan(spec_of(), seen, NOON + minutes(after))
    assert planned.target is target


def test_unknown_activity_loads_nothing_that_is_not_loaded() -> None:
    planned = plan(spec_of(), Observed(State.UNLOADED, unresponsive_since=NOON), NOON)
    assert (planned.target, planned.steps) == (State.UNLOADED, ())


def test_unknown_activity_keeps_no_model_from_loading() -> None:
    planned = plan(spec_of(desiredState="Loaded"), Observed(State.UNLOADED, unresponsive_since=NOON), NOON)
    assert planned.steps == (Step.LOAD,)


def test_the_plan_is_reconsidered_when_the_unknown_has_lasted_long_enough() -> None:
    seen = Observed(State.LOADED, unresponsive_since=NOON)
    assert plan(spec_of(), seen, NOON).check_at == NOON + minutes(5)
