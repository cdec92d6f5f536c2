"""A year of office hours, loaded from 07:00 to 20:00: a schedule gives the same changes as cron."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from testing.planner_cases import SimulatedModel, spec_of, utc
from whispermodel.planning.decision import Observed
from whispermodel.planning.forecast import Period, forecast, totals
from whispermodel.planning.planner import plan
from whispermodel.spec import Spec
from whispermodel.states import State

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
START = datetime(2028, 1, 1, tzinfo=SAO_PAULO)
"""Of a leap year."""
END = datetime(2029, 1, 1, tzinfo=SAO_PAULO)
DAYS = 366
IDLE = timedelta(minutes=15)
OFFICE_HOURS: dict[str, object] = {
    "timeZone": "America/Sao_Paulo",
    "entries": [
        {"name": "after-hours", "cron": "0 20 * * *", "state": "Unloaded"},
        {"name": "before-hours", "cron": "0 7 * * *", "state": "Loaded"},
    ],
}

Change = tuple[datetime, State]


def in_force(changes: Sequence[Change], at: datetime) -> State:
    """Return the state after the last change up to an instant; it is night before the first."""
    place = bisect_right(changes, at, key=lambda change: change[0])
    return changes[place - 1][1] if place else State.UNLOADED


def effective(changes: Sequence[Change]) -> list[Change]:
    """Return the changes that have an effect, in order."""
    found, state = list[Change](), State.UNLOADED
    for at, then in sorted(changes):
        if then is not state:
            found.append((at, then))
            state = then
    return found


def cron_calls() -> list[Change]:
    """Return cron's calls in the year: one load and one unload a day."""
    days = [START + timedelta(days=count) for count in range(DAYS)]
    return [(day.replace(hour=7), State.LOADED) for day in days] + [
        (day.replace(hour=20), State.UNLOADED) for day in days
    ]


def night_work() -> list[Period]:
    """Return work of 1 to 40 minutes in every third night; it ends, and the idle time passes, before the morning."""
    chance, found = random.Random(366), list[Period]()
    for count in range(0, DAYS - 1, 3):
        began = START + timedelta(days=count, hours=20, minutes=chance.randint(1, 600))
        found.append((began, began + timedelta(minutes=chance.randint(1, 40))))
    return found


def cron_with_work(work: Sequence[Period]) -> list[Change]:
    """Return the changes of a model that loads when work arrives, and stays loaded until cron unloads it."""
    return effective(cron_calls() + [(began, State.LOADED) for began, _ in work])


def released_after_work(work: Sequence[Period]) -> list[Change]:
    """Return the same, but with the model unloaded when it was idle for 15 minutes at night."""
    released = [(ended + IDLE, State.UNLOADED) for _, ended in work]
    return effective(cron_calls() + [(began, State.LOADED) for began, _ in work] + released)


def forecast_changes(spec: Spec, work: Sequence[Period] = ()) -> list[Change]:
    return [(one.at, one.after) for one in forecast(spec, start=START, end=END, demand=work)]


def test_forecast_equals_crons_calls() -> None:
    changes = forecast_changes(spec_of(schedule=OFFICE_HOURS))
    assert changes == effective(cron_calls())
    assert len(changes) == 2 * DAYS


def test_each_step_follows_crons_calls() -> None:
    model, called = SimulatedModel(spec_of(schedule=OFFICE_HOURS), Observed(State.UNLOADED)), effective(cron_calls())
    now: datetime | None = START
    while now is not None and now < END:
        model.settle(now)
        assert model.seen.state is in_force(called, now)
        now = model.plan(now).check_at


def test_target_at_any_minute_follows_cron() -> None:
    spec, changes, chance = spec_of(schedule=OFFICE_HOURS), effective(cron_calls()), random.Random(20)
    for minute in sorted(chance.sample(range(DAYS * 24 * 60), 2000)):
        at = START.astimezone(utc("2028-01-01").tzinfo) + timedelta(minutes=minute)
        assert plan(spec, Observed(State.UNLOADED), at).target is in_force(changes, at), at


def test_model_stays_loaded_after_work_at_night_with_a_long_idle_time() -> None:
    stays_all_night = spec_of(schedule=OFFICE_HOURS, idle={"unloadAfter": "24h"})
    assert forecast_changes(stays_all_night, night_work()) == cron_with_work(night_work())


def test_model_is_released_after_work_at_night_by_default() -> None:
    changes = forecast_changes(spec_of(schedule=OFFICE_HOURS), night_work())
    assert changes == released_after_work(night_work())


def test_totals_of_the_year_add_up() -> None:
    work = night_work()
    year = totals(spec_of(schedule=OFFICE_HOURS), start=START, end=END, demand=work)
    extra = sum(((ended - began) + IDLE for began, ended in work), timedelta())
    assert year.loaded_seconds == pytest.approx(DAYS * 13 * 3600 + extra.total_seconds())
    assert year.loaded_seconds + year.unloaded_seconds == DAYS * 24 * 3600
    assert (year.cold_starts, year.loads) == (len(work), DAYS + len(work))
