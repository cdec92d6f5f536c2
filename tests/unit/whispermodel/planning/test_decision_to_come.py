"""Lead time, next transition and next check: the rules of docs/planning.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testing.planner_cases import DAY, EVENING, MORNING, exception, manual_command, minutes, spec_of, utc, worked
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, Step, plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

NIGHT = utc("2026-11-25T23:00")
UNLOADED = Observed(State.UNLOADED)
LED = spec_of(schedule={**DAY, "leadTime": "10m"})
LED_BY_MEASURE = spec_of(schedule={**DAY, "leadTime": "Auto"})
CLOSED = exception("closed", "2026-11-25T00:00:00Z", "2026-11-26T07:05:00Z", state=Mode.ZERO)


def next_of(planned: Plan) -> tuple[str, State] | None:
    coming = planned.next_transition
    return (coming.time.strftime("%a %H:%M"), coming.state) if coming else None


# Lead time


@pytest.mark.parametrize(
    ("spec", "starts", "at", "target"),
    [
        pytest.param(
            spec_of(schedule=DAY), (600.0,), "06:59:59", State.UNLOADED, id="is nothing unless it is asked for"
        ),
        pytest.param(LED, (), "06:49:59", State.UNLOADED, id="begins no load before it"),
        pytest.param(LED, (), "06:50:00", State.LOADED, id="begins the load early by a duration"),
        pytest.param(LED_BY_MEASURE, (20, 40, 30), "06:59:19", State.UNLOADED, id="Auto is no longer than needed"),
        pytest.param(
            LED_BY_MEASURE, (20, 40, 30), "06:59:20", State.LOADED, id="Auto is the longest of the last starts"
        ),
        pytest.param(LED_BY_MEASURE, (), "06:59:59", State.UNLOADED, id="Auto is nothing before the first start"),
    ],
)
def test_the_lead_time(spec: Spec, starts: tuple[float, ...], at: str, target: State) -> None:
    planned = plan(spec, replace(UNLOADED, start_seconds=starts), utc(f"2026-11-26T{at}"))
    assert planned.target is target


def test_a_load_ahead_of_its_fire_is_not_idle_and_stays() -> None:
    early = plan(LED, Observed(State.LOADED), utc("2026-11-26T06:55"))
    assert (early.target, early.reason, early.steps) == (State.LOADED, Reason.SCHEDULE, ())


def test_the_plan_is_reconsidered_when_the_lead_time_begins() -> None:
    assert plan(LED, UNLOADED, NIGHT).check_at == utc("2026-11-26T06:50")
    assert next_of(plan(LED, UNLOADED, NIGHT)) == ("Thu 06:50", State.LOADED)


def test_an_exception_that_loads_is_led_as_well() -> None:
    fair = exception("fair", "2026-11-26T05:00:00Z", "2026-11-26T06:00:00Z", state=Mode.LOADED)
    spec = spec_of(schedule={"entries": [EVENING], "exceptions": [fair], "leadTime": "10m"})
    assert plan(spec, UNLOADED, utc("2026-11-26T04:50")).target is State.LOADED


def test_a_fire_that_an_exception_swallows_is_not_led() -> None:
    spec = spec_of(
        schedule={"entries": [MORNING], "exceptions": [{**CLOSED, "to": "2026-11-26T09:00:00Z"}], "leadTime": "10m"}
    )
    assert plan(spec, UNLOADED, utc("2026-11-26T06:55")).target is State.ZERO


def test_a_load_that_an_exception_has_put_off_is_led_as_well() -> None:
    closed = exception("closed", "2026-11-25T00:00:00Z", "2026-11-26T09:00:00Z", state=Mode.ZERO)
    spec = spec_of(schedule={"entries": [MORNING], "exceptions": [closed], "leadTime": "10m"})
    assert plan(spec, UNLOADED, utc("2026-11-26T08:49:59")).target is State.ZERO
    led = plan(spec, UNLOADED, utc("2026-11-26T08:50"))
    assert (led.target, led.reason) == (State.LOADED, Reason.SCHEDULE)
    assert led.message.startswith("Loaded early for schedule 'morning', which starts Thu 2026-11-26 09:00 UTC")


def test_a_fire_soon_after_an_exception_is_led_into_it() -> None:
    closed = exception("closed", "2026-11-25T00:00:00Z", "2026-11-26T06:58:00Z", state=Mode.ZERO)
    spec = spec_of(schedule={"entries": [MORNING], "exceptions": [closed], "leadTime": "10m"})
    assert plan(spec, UNLOADED, utc("2026-11-26T06:50")).target is State.LOADED


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec_of(schedule={**DAY, "leadTime": "10m"}, desiredState="Zero"), id="desiredState"),
        pytest.param(
            spec_of(schedule={**DAY, "leadTime": "10m"}, override={"state": "Zero", "until": "2026-11-26T06:58:00Z"}),
            id="an override",
        ),
    ],
)
def test_the_lead_time_does_not_beat(spec: Spec) -> None:
    assert plan(spec, UNLOADED, utc("2026-11-26T06:55")).target is State.ZERO


# The next transition is one that really changes something


@pytest.mark.parametrize(
    ("spec", "seen", "expected"),
    [
        pytest.param(spec_of(schedule=DAY), UNLOADED, ("Thu 07:00", State.LOADED), id="the next fire"),
        pytest.param(
            spec_of(schedule={"entries": [EVENING, {**MORNING, "cron": "0 7 * * 6"}]}),
            UNLOADED,
            ("Sat 07:00", State.LOADED),
            id="fires that bring what is there already are skipped",
        ),
        pytest.param(
            spec_of(schedule={"entries": [MORNING, EVENING], "exceptions": [CLOSED]}),
            Observed(State.ZERO),
            ("Thu 07:05", State.LOADED),
            id="a fire inside an exception counts from the exception's end",
        ),
        pytest.param(
            spec_of(desiredState="Zero", override={"state": "Loaded", "until": "2026-11-26T01:00:00Z"}),
            Observed(State.LOADED),
            ("Thu 01:00", State.ZERO),
            id="an override's expiry",
        ),
        pytest.param(
            spec_of(schedule=DAY, override={"state": "Loaded", "until": "2026-11-26T12:00:00Z"}),
            Observed(State.LOADED),
            ("Thu 20:00", State.UNLOADED),
            id="an override's expiry into the same mode is skipped",
        ),
        pytest.param(
            spec_of(),
            worked(State.LOADED, began="2026-11-25T22:30", ended="2026-11-25T22:50"),
            ("Wed 23:05", State.UNLOADED),
            id="the end of unloadAfter",
        ),
        pytest.param(
            spec_of(idle={"scaleToZeroAfter": "1h"}),
            worked(State.UNLOADED, began="2026-11-25T22:00", ended="2026-11-25T22:10"),
            ("Wed 23:10", State.ZERO),
            id="the end of scaleToZeroAfter",
        ),
        pytest.param(
            spec_of(schedule=DAY),
            worked(State.LOADED, began="2026-11-25T22:30", ended="2026-11-25T22:50"),
            ("Wed 23:05", State.UNLOADED),
            id="the end of a stay after night work",
        ),
        pytest.param(
            spec_of(schedule={"entries": [{**EVENING, "state": "Auto"}, MORNING], "exceptions": []}),
            replace(UNLOADED, manual=manual_command(Mode.LOADED, "2026-11-25T22:00")),
            ("Thu 20:00", State.UNLOADED),
            id="a manual load holds until a fire that changes it",
        ),
        pytest.param(spec_of(desiredState="Loaded"), UNLOADED, None, id="none where nothing is to come"),
        pytest.param(spec_of(), UNLOADED, None, id="none for a model that waits for work"),
        pytest.param(spec_of(schedule=DAY), Observed(State.LOADED, in_flight=1), None, id="none while work decides"),
    ],
)
def test_the_next_transition_is(spec: Spec, seen: Observed, expected: tuple[str, State] | None) -> None:
    assert next_of(plan(spec, seen, NIGHT)) == expected


def test_a_planned_unload_is_known_though_work_runs() -> None:
    seen = Observed(State.LOADED, in_flight=1, work_began=utc("2026-11-25T18:00"))
    assert next_of(plan(spec_of(schedule=DAY), seen, utc("2026-11-25T19:00"))) == ("Wed 20:00", State.UNLOADED)


def test_a_change_that_depends_on_the_end_of_running_work_is_not_guessed() -> None:
    spec = spec_of(schedule={"entries": [MORNING, {**EVENING, "state": "Auto"}]})
    seen = Observed(State.LOADED, in_flight=1, work_began=utc("2026-11-25T18:00"))
    plans = [plan(spec, seen, utc(at)) for at in ("2026-11-25T19:00", "2026-11-25T19:55")]
    assert [next_of(planned) for planned in plans] == [None, None]


def test_the_next_transition_of_a_load_in_progress_is_that_of_the_loaded_model() -> None:
    spec = spec_of(schedule={"entries": [MORNING, {**EVENING, "state": "Auto"}]})
    assert next_of(plan(spec, Observed(State.LOADING), utc("2026-11-25T07:00"))) == ("Wed 20:00", State.UNLOADED)


def test_a_model_that_is_loaded_again_within_the_lead_time_never_unloads() -> None:
    nap = [{"name": "nap", "cron": "0 12 * * *", "state": "Unloaded"}, {**MORNING, "cron": "5 12 * * *"}]
    spec = spec_of(schedule={"entries": nap, "leadTime": "10m"})
    planned = plan(spec, Observed(State.LOADED), utc("2026-11-25T11:00"))
    assert (planned.target, planned.next_transition) == (State.LOADED, None)


@pytest.mark.parametrize(
    ("spec", "seen", "at"),
    [
        pytest.param(spec_of(schedule=DAY), UNLOADED, "2026-11-26T07:00", id="the next fire"),
        pytest.param(
            spec_of(schedule={**DAY, "exceptions": [CLOSED]}), UNLOADED, "2026-11-26T07:05", id="an exception's end"
        ),
        pytest.param(
            spec_of(override={"state": "Zero", "until": "2026-11-25T23:30:00Z"}),
            UNLOADED,
            "2026-11-25T23:30",
            id="an override's expiry",
        ),
        pytest.param(spec_of(desiredState="Loaded"), Observed(State.LOADED), None, id="never, where nothing changes"),
    ],
)
def test_the_plan_is_reconsidered_at(spec: Spec, seen: Observed, at: str | None) -> None:
    assert plan(spec, seen, NIGHT).check_at == (utc(at) if at else None)


def test_a_plan_that_was_looked_at_in_time_acts_at_the_minute_itself() -> None:
    fire = utc("2026-11-26T07:00")
    assert plan(spec_of(schedule=DAY), UNLOADED, fire - minutes(0.001)).steps == ()
    assert plan(spec_of(schedule=DAY), UNLOADED, fire).steps == (Step.LOAD,)
