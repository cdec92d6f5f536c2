"""Exceptions inside entries, overrides that expire inside a window, and outages that change no answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from testing.planner_cases import EVENING, MORNING, SimulatedModel, exception, manual_command, spec_of, utc
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

BERLIN_DAY: dict[str, object] = {"timeZone": "Europe/Berlin", "entries": [MORNING, EVENING]}
"""In winter loaded from 06:00 to 19:00 UTC, in summer from 05:00 to 18:00."""
LUNCH = exception("lunch", "2026-11-25T12:00:00+01:00", "2026-11-25T13:00:00+01:00", state=Mode.ZERO)
DINNER = exception("dinner", "2026-11-25T19:30:00+01:00", "2026-11-25T21:00:00+01:00", state=Mode.LOADED)
SUPPER = exception("supper", "2026-11-25T13:00:00+01:00", "2026-11-25T14:00:00+01:00", state=Mode.AUTO)
SPRING = exception("spring", "2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00", state=Mode.ZERO)


def with_exceptions(*exceptions: object) -> Spec:
    return spec_of(schedule={**BERLIN_DAY, "exceptions": list(exceptions)})


def overridden(state: str, until: str) -> Spec:
    return spec_of(schedule=BERLIN_DAY, override={"state": state, "until": until})


ALL_DAY = with_exceptions(LUNCH, SUPPER, DINNER)
IN_THE_DAY = overridden("Zero", "2026-11-25T15:00:00+01:00")
IN_THE_NIGHT = overridden("Loaded", "2026-11-25T23:00:00+01:00")
ACROSS_THE_CHANGE = overridden("Loaded", "2026-03-29T03:00:00+02:00")


@pytest.mark.parametrize(
    ("spec", "at", "expected"),
    [
        pytest.param(ALL_DAY, "10:59:59", (State.LOADED, Reason.SCHEDULE, "11:00"), id="before an exception"),
        pytest.param(ALL_DAY, "11:00:00", (State.ZERO, Reason.EXCEPTION, "12:00"), id="from its first instant"),
        pytest.param(ALL_DAY, "11:59:59.999999", (State.ZERO, Reason.EXCEPTION, "12:00"), id="to just before its end"),
        pytest.param(ALL_DAY, "12:00:00", (State.UNLOADED, Reason.IDLE, "13:00"), id="at its end the next one begins"),
        pytest.param(ALL_DAY, "13:00:00", (State.LOADED, Reason.SCHEDULE, "20:00"), id="after them the entry again"),
        pytest.param(ALL_DAY, "18:59:59", (State.LOADED, Reason.EXCEPTION, "20:00"), id="an exception over a fire"),
        pytest.param(ALL_DAY, "19:00:00", (State.LOADED, Reason.EXCEPTION, "20:00"), id="a fire inside an exception"),
        pytest.param(ALL_DAY, "20:00:00", (State.UNLOADED, Reason.SCHEDULE, "06:00"), id="that fire counts afterwards"),
        pytest.param(IN_THE_DAY, "13:59:59", (State.ZERO, Reason.OVERRIDE, "14:00"), id="an override inside the day"),
        pytest.param(IN_THE_DAY, "14:00:00", (State.LOADED, Reason.SCHEDULE, "19:00"), id="it expires inside the day"),
        pytest.param(IN_THE_NIGHT, "19:00:00", (State.LOADED, Reason.OVERRIDE, "22:00"), id="an override over a fire"),
        pytest.param(
            IN_THE_NIGHT, "22:00:00", (State.UNLOADED, Reason.SCHEDULE, "06:00"), id="it expires in the night"
        ),
    ],
)
def test_on_a_wednesday_in_berlin(spec: Spec, at: str, expected: tuple[State, Reason, str]) -> None:
    planned = plan(spec, Observed(State.LOADED), utc(f"2026-11-25T{at}"))
    assert (planned.target, planned.reason, time_of_next(planned)) == expected


@pytest.mark.parametrize(
    ("spec", "at", "expected"),
    [
        pytest.param(with_exceptions(SPRING), "00:29:59", (State.UNLOADED, "00:30"), id="before the exception"),
        pytest.param(with_exceptions(SPRING), "01:29:59", (State.ZERO, "01:30"), id="an exception across the gap"),
        pytest.param(with_exceptions(SPRING), "01:30:00", (State.UNLOADED, "05:00"), id="it lasts an hour, not two"),
        pytest.param(ACROSS_THE_CHANGE, "00:59:59", (State.LOADED, "01:00"), id="an override that ends with the gap"),
        pytest.param(
            ACROSS_THE_CHANGE, "01:00:00", (State.UNLOADED, "05:00"), id="after it the entry, an hour earlier"
        ),
    ],
)
def test_on_the_night_of_the_spring_change(spec: Spec, at: str, expected: tuple[State, str]) -> None:
    planned = plan(spec, Observed(State.UNLOADED), utc(f"2026-03-29T{at}"))
    assert (planned.target, time_of_next(planned)) == expected


def time_of_next(planned: Plan) -> str:
    return planned.next_transition.time.strftime("%H:%M") if planned.next_transition else ""


# Outages

OUTAGES = {
    "1 minute": timedelta(minutes=1),
    "59 minutes": timedelta(minutes=59),
    "1 hour": timedelta(hours=1),
    "3 hours": timedelta(hours=3),
    "12 hours": timedelta(hours=12),
    "1 day": timedelta(days=1),
    "1 week": timedelta(weeks=1),
    "3 weeks": timedelta(weeks=3),
}
BACK_AT = {
    "a fire": "2026-11-25T19:00:00",
    "a minute after a fire": "2026-11-25T19:01:00",
    "the middle of a night": "2026-11-26T01:00:00",
    "the end of an exception": "2026-11-25T12:00:00",
    "the hour after the spring change": "2026-03-29T01:00:00",
    "the second coming of an hour": "2026-10-25T01:20:00",
    "the first second of a year": "2026-12-31T23:00:00",
}
NIGHTS_OUT: dict[str, object] = {
    "timeZone": "Europe/Berlin",
    "entries": [
        *(MORNING, EVENING),
        {"name": "deep-night", "cron": "15 2 * * *", "state": "Zero"},
        {"name": "weekend", "cron": "0 12 * * 6", "state": "Auto"},
    ],
    "exceptions": [LUNCH, DINNER, SPRING],
}


def awake(model: SimulatedModel, start: datetime, *, until: datetime) -> SimulatedModel:
    """Obey every plan at its time."""
    now: datetime | None = start
    while now is not None and now <= until:
        model.settle(now)
        now = model.plan(now).check_at
    model.settle(until)
    return model


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
@pytest.mark.parametrize("back_at", BACK_AT.values(), ids=BACK_AT.keys())
def test_after_an_outage_the_answer_is_as_without_it(outage: timedelta, back_at: str) -> None:
    now = utc(back_at)
    down_from = now - outage
    spec = spec_of(schedule=NIGHTS_OUT, idle={"unloadAfter": "30m", "scaleToZeroAfter": "2h"})
    worked_before = replace(
        Observed(State.LOADED),
        work_began=down_from - timedelta(minutes=30),
        idle_since=down_from - timedelta(minutes=20),
        manual=manual_command(Mode.LOADED, (down_from - timedelta(minutes=10)).isoformat()),
    )
    up = awake(SimulatedModel(spec, worked_before), down_from, until=now)
    back = SimulatedModel(spec, worked_before)
    back.settle(down_from)
    back.settle(now)
    assert back.seen.state is up.seen.state
    assert (back.plan(now), back.plan(now).steps) == (up.plan(now), ())


def test_a_fire_that_was_slept_through_is_made_up_for() -> None:
    planned = plan(spec_of(schedule=BERLIN_DAY), Observed(State.LOADED), utc("2026-11-25T19:00:01"))
    assert (planned.target, planned.reason) == (State.UNLOADED, Reason.SCHEDULE)
