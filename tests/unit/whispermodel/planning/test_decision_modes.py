"""Which mode is in force and what it means: the rules of docs/planning.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testing.planner_cases import DAY, EVENING, MORNING, SimulatedModel, exception, manual_command, spec_of, utc
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand, Reason
from whispermodel.planning.planner import Plan, Step, manual_left, plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

NOON = utc("2026-11-25T12:00")
NIGHT = utc("2026-11-25T23:00")
LOADED = Observed(State.LOADED)
UNTIL_MIDNIGHT = "2026-11-26T00:00:00Z"

EVERYTHING: dict[str, object] = {
    "suspend": True,
    "override": {"state": "Zero", "until": UNTIL_MIDNIGHT},
    "desiredState": "Unloaded",
    "schedule": {
        "entries": [MORNING],
        "exceptions": [exception("fair", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z", state=Mode.ZERO)],
    },
}


def without(*names: str) -> Spec:
    return spec_of(**{name: value for name, value in EVERYTHING.items() if name not in names})


def decided(planned: Plan) -> tuple[State, Reason]:
    return planned.target, planned.reason


def test_states_are_ordered_zero_unloaded_loaded() -> None:
    assert State.ZERO.rank < State.UNLOADED.rank < State.LOADED.rank


def test_the_same_spec_observation_and_time_give_the_same_plan() -> None:
    assert plan(without(), LOADED, NOON) == plan(without(), LOADED, NOON)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(without(), (State.LOADED, Reason.SUSPENDED), id="suspend comes first"),
        pytest.param(without("suspend"), (State.ZERO, Reason.OVERRIDE), id="then the override"),
        pytest.param(
            without("suspend", "override"), (State.UNLOADED, Reason.DESIRED_STATE), id="then desiredState unless Auto"
        ),
        pytest.param(
            without("suspend", "override", "desiredState"),
            (State.ZERO, Reason.EXCEPTION),
            id="then an exception of the schedule",
        ),
        pytest.param(
            spec_of(schedule={"entries": [MORNING]}),
            (State.LOADED, Reason.SCHEDULE),
            id="then the entry that fired last",
        ),
        pytest.param(spec_of(), (State.UNLOADED, Reason.IDLE), id="then Auto"),
    ],
)
def test_the_mode_in_force_is_the_first_that_applies(spec: Spec, expected: tuple[State, Reason]) -> None:
    assert decided(plan(spec, LOADED, NOON)) == expected


def test_an_override_holds_until_its_expiry_and_no_longer() -> None:
    spec = spec_of(override={"state": "Loaded", "until": "2026-11-25T12:00:00Z"}, desiredState="Zero")
    assert decided(plan(spec, LOADED, utc("2026-11-25T11:59:59.999999"))) == (State.LOADED, Reason.OVERRIDE)
    assert decided(plan(spec, LOADED, NOON)) == (State.ZERO, Reason.DESIRED_STATE)


def test_an_override_to_auto_lets_the_idle_times_decide() -> None:
    spec = spec_of(override={"state": "Auto", "until": UNTIL_MIDNIGHT}, desiredState="Loaded")
    assert decided(plan(spec, LOADED, NOON)) == (State.UNLOADED, Reason.IDLE)


def test_an_entry_may_bring_auto() -> None:
    spec = spec_of(schedule={"entries": [EVENING, {"name": "day", "cron": "0 7 * * *", "state": "Auto"}]})
    worked_lately = replace(LOADED, idle_since=utc("2026-11-25T11:50"))
    assert plan(spec, worked_lately, NOON).target is State.LOADED
    assert plan(spec, worked_lately, utc("2026-11-25T20:00")).target is State.UNLOADED


@pytest.mark.parametrize(
    ("mode", "starts", "steps"),
    [
        pytest.param("Loaded", State.ZERO, [Step.SCALE_UP, Step.LOAD], id="Loaded wakes a pod and loads it"),
        pytest.param("Loaded", State.LOADED, [], id="Loaded keeps it loaded"),
        pytest.param("Unloaded", State.LOADED, [Step.UNLOAD_COLD], id="Unloaded releases the model"),
        pytest.param("Unloaded", State.UNLOADED, [], id="Unloaded keeps the pod"),
        pytest.param("Unloaded", State.ZERO, [Step.SCALE_UP], id="Unloaded brings a pod from zero"),
        pytest.param("Zero", State.LOADED, [Step.UNLOAD_COLD, Step.SCALE_DOWN], id="Zero releases, then takes the pod"),
        pytest.param("Zero", State.ZERO, [], id="Zero has no pod"),
    ],
)
def test_each_mode_keeps_its_state(mode: str, starts: State, steps: list[Step]) -> None:
    model = SimulatedModel(spec_of(desiredState=mode), Observed(starts))
    assert model.settle(NOON) == steps
    assert model.seen.state is State(mode)


def test_a_loaded_model_stays_loaded_however_long_it_is_idle() -> None:
    idle_for_a_year = replace(LOADED, idle_since=utc("2025-11-25T12:00"))
    assert plan(spec_of(desiredState="Loaded"), idle_for_a_year, NOON).target is State.LOADED


@pytest.mark.parametrize("state", [State.ZERO, State.UNLOADED, State.LOADED])
def test_suspend_takes_no_action_and_says_so(state: State) -> None:
    busy = Observed(state, waiting=3)
    planned = plan(spec_of(suspend=True, schedule=DAY), busy, NIGHT)
    assert (planned.target, planned.steps, planned.next_transition, planned.check_at) == (state, (), None, None)
    assert planned.message.startswith("Suspended: the plan changes nothing until spec.suspend")


def test_suspended_work_does_not_wake_a_model_from_zero() -> None:
    assert plan(spec_of(suspend=True), Observed(State.ZERO, waiting=1), NOON).steps == ()


@pytest.mark.parametrize(
    ("command", "at", "expected"),
    [
        pytest.param(
            manual_command(Mode.UNLOADED, "2026-11-25T10:00"),
            "2026-11-25T10:00",
            (State.UNLOADED, Reason.MANUAL),
            id="counts as a fire at that instant",
        ),
        pytest.param(
            manual_command(Mode.UNLOADED, "2026-11-25T10:00"),
            "2026-11-26T06:59:59",
            (State.UNLOADED, Reason.SCHEDULE),
            id="holds until the next fire though it brings the same mode",
        ),
        pytest.param(
            manual_command(Mode.LOADED, "2026-11-25T22:00"),
            "2026-11-26T06:59:59",
            (State.LOADED, Reason.MANUAL),
            id="holds through the night until the next fire",
        ),
        pytest.param(
            manual_command(Mode.LOADED, "2026-11-25T22:00"),
            "2026-11-26T20:00",
            (State.UNLOADED, Reason.SCHEDULE),
            id="is over with the next fire",
        ),
        pytest.param(
            manual_command(Mode.LOADED, "2026-11-25T20:00"),
            "2026-11-25T20:00",
            (State.UNLOADED, Reason.SCHEDULE),
            id="loses to a lower fire at the same instant",
        ),
        pytest.param(
            manual_command(Mode.UNLOADED, "2026-11-25T07:00"),
            "2026-11-25T07:00",
            (State.UNLOADED, Reason.MANUAL),
            id="wins over a higher fire at the same instant",
        ),
        pytest.param(
            manual_command(Mode.LOADED, "2026-11-25T07:00"),
            "2026-11-25T07:00",
            (State.LOADED, Reason.SCHEDULE),
            id="leaves the word to a fire of its own mode at the same instant",
        ),
    ],
)
def test_a_manual_command(command: ManualCommand, at: str, expected: tuple[State, Reason]) -> None:
    seen = replace(LOADED, manual=command)
    assert decided(plan(spec_of(schedule=DAY), seen, utc(at))) == expected


def test_a_manual_command_without_entries_holds_for_ever() -> None:
    seen = replace(LOADED, manual=manual_command(Mode.LOADED, "2020-01-01T00:00"))
    assert decided(plan(spec_of(), seen, NOON)) == (State.LOADED, Reason.MANUAL)


def test_an_exception_beats_a_manual_command_which_holds_again_after_it() -> None:
    closed = exception("closed", "2026-11-25T11:00:00Z", "2026-11-25T13:00:00Z", state=Mode.ZERO)
    seen = replace(LOADED, manual=manual_command(Mode.LOADED, "2026-11-25T11:30"))
    spec = spec_of(schedule={"entries": [EVENING], "exceptions": [closed]})
    assert decided(plan(spec, seen, NOON)) == (State.ZERO, Reason.EXCEPTION)
    assert decided(plan(spec, seen, utc("2026-11-25T13:00"))) == (State.LOADED, Reason.MANUAL)


def test_a_manual_command_does_not_beat_an_override_or_desired_state() -> None:
    seen = replace(LOADED, manual=manual_command(Mode.LOADED, "2026-11-25T11:00"))
    assert plan(without("suspend"), seen, NOON).reason is Reason.OVERRIDE
    assert plan(without("suspend", "override"), seen, NOON).reason is Reason.DESIRED_STATE


def test_a_manual_command_survives_restarts_because_it_is_observed() -> None:
    before, after = Observed(State.LOADED), Observed(State.ZERO)
    command = manual_command(Mode.UNLOADED, "2026-11-25T10:00")
    plans = [plan(spec_of(schedule=DAY), replace(seen, manual=command), NOON) for seen in (before, after)]
    assert [decided(planned) for planned in plans] == [(State.UNLOADED, Reason.MANUAL)] * 2


def test_a_schedule_that_cannot_be_obeyed_keeps_the_last_good_target_and_says_why() -> None:
    spec = spec_of(schedule={"timeZone": "Mars/Olympus", "entries": [EVENING]})
    planned = plan(spec, replace(LOADED, target=State.LOADED), NIGHT)
    assert decided(planned) == (State.LOADED, Reason.SCHEDULE)
    assert planned.problem == (
        "there is no time zone 'Mars/Olympus': use an IANA name such as Europe/Berlin or Etc/UTC"
    )
    assert planned.message == f"Staying Loaded: {planned.problem}."


def test_a_schedule_that_never_could_be_obeyed_leaves_the_idle_times() -> None:
    planned = plan(spec_of(schedule={"timeZone": "Mars/Olympus"}), LOADED, NOON)
    assert decided(planned) == (State.UNLOADED, Reason.IDLE)
    assert planned.problem


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        pytest.param("0 0 30 2 *", "cannot fire", id="the 30th of February"),
        pytest.param("61 0 * * *", "Bad minute", id="a minute that no hour has"),
        pytest.param("0 7 * * 1-8", "Bad day-of-week", id="an eighth day of the week"),
    ],
)
def test_an_entry_that_never_fires_is_a_problem_that_names_it(cron: str, problem: str) -> None:
    entry: object = {"name": "never", "cron": cron, "state": "Loaded"}
    planned = plan(spec_of(schedule={"entries": [entry]}), LOADED, NOON)
    assert planned.problem is not None
    assert "the entry 'never'" in planned.problem
    assert problem in planned.problem


def test_override_demand_and_suspend_count_though_the_schedule_is_broken() -> None:
    broken: object = {"timeZone": "Mars/Olympus"}
    override: object = {"state": "Zero", "until": UNTIL_MIDNIGHT}
    assert plan(spec_of(schedule=broken, override=override), LOADED, NOON).reason is Reason.OVERRIDE
    assert plan(spec_of(schedule=broken), Observed(State.ZERO, waiting=1), NOON).reason is Reason.DEMAND
    assert plan(spec_of(schedule=broken, suspend=True), LOADED, NOON).reason is Reason.SUSPENDED


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        pytest.param(spec_of(schedule={"entries": [MORNING]}), True, id="no fire since"),
        pytest.param(spec_of(schedule=DAY), False, id="a fire since"),
        pytest.param(spec_of(schedule=DAY, desiredState="Loaded"), False, id="a fire since, under a desiredState"),
        pytest.param(without("suspend", "override"), True, id="no fire since, under a desiredState"),
        pytest.param(spec_of(schedule={**DAY, "timeZone": "Mars/Olympus"}), True, id="no schedule that could fire"),
    ],
)
def test_a_manual_command_is_remembered_until_a_fire_whatever_beats_it(spec: Spec, left: bool) -> None:
    manual = manual_command(Mode.UNLOADED, "2026-11-25T13:00")
    assert manual_left(spec, replace(LOADED, manual=manual), NIGHT) == (manual if left else None)


def test_a_manual_command_that_is_dated_ahead_is_not_remembered() -> None:
    ahead = manual_command(Mode.LOADED, "2026-11-25T23:01")
    assert manual_left(spec_of(), replace(LOADED, manual=ahead), NIGHT) is None
