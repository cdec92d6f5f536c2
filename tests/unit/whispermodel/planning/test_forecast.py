"""The forecast: the planner stepped through a period, with and without work."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from testing.planner_cases import DAY, EVENING, MORNING, exception, spec_of, utc
from whispermodel.planning import forecast as forecasts
from whispermodel.planning.forecast import ForecastTooLong, ForecastTransition, Period, Totals, forecast, merged, totals
from whispermodel.planning.modes import Reason
from whispermodel.planning.schedule import ScheduleError
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

START, END = utc("2026-11-25T00:00"), utc("2026-11-27T00:00")
HOUR = 3600.0
NIGHT_WORK = (utc("2026-11-25T22:00"), utc("2026-11-25T22:10"))
IDLE = spec_of(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"})
SEED = spec_of(schedule=DAY)


def story(
    spec: Spec, *, demand: tuple[Period, ...] = (), start_seconds: float = 0.0
) -> list[tuple[str, State, Reason]]:
    """The transitions of two days: when, to which state, why."""
    transitions = forecast(spec, start=START, end=END, demand=demand, start_seconds=start_seconds)
    return [(one.at.strftime("%d. %H:%M:%S"), one.after, one.reason) for one in transitions]


def test_without_work_the_schedule_is_all_that_happens() -> None:
    assert story(SEED) == [
        ("25. 07:00:00", State.LOADED, Reason.SCHEDULE),
        ("25. 20:00:00", State.UNLOADED, Reason.SCHEDULE),
        ("26. 07:00:00", State.LOADED, Reason.SCHEDULE),
        ("26. 20:00:00", State.UNLOADED, Reason.SCHEDULE),
    ]


def test_a_transition_says_what_changes_and_why() -> None:
    assert next(iter(forecast(SEED, start=START, end=END))) == ForecastTransition(
        at=utc("2026-11-25T07:00"),
        before=State.UNLOADED,
        after=State.LOADED,
        reason=Reason.SCHEDULE,
        message="Loaded by schedule 'morning' since Wed 07:00 UTC; unloads Wed 20:00 UTC.",
    )


def test_the_period_holds_its_start_and_not_its_end() -> None:
    fires = [utc("2026-11-25T07:00"), utc("2026-11-25T20:00")]
    assert list(forecast(SEED, start=fires[0], end=fires[1])) == []
    seen = forecast(SEED, start=fires[0] - timedelta(microseconds=1), end=fires[1] + timedelta(microseconds=1))
    assert [one.at for one in seen] == fires


def test_a_period_is_as_long_as_it_lasts_and_not_as_the_clock_on_the_wall_shows() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    period = datetime(2026, 3, 29, 2, 30, tzinfo=berlin), datetime(2026, 3, 29, 3, 15, tzinfo=berlin)
    assert merged([period]) == [], "half past two, which is not shown, is half past three"
    before = datetime(2026, 3, 29, 1, 59, tzinfo=berlin), datetime(2026, 3, 29, 3, 0, tzinfo=berlin)
    assert merged([before]) == [(utc("2026-03-29T00:59"), utc("2026-03-29T01:00"))]


def test_an_empty_period_has_nothing() -> None:
    assert list(forecast(SEED, start=END, end=START, demand=[NIGHT_WORK])) == []
    assert totals(SEED, start=END, end=START, demand=[NIGHT_WORK]) == Totals()


def test_work_at_night_starts_cold_and_stays_for_unload_after() -> None:
    assert story(SEED, demand=(NIGHT_WORK,))[2:4] == [
        ("25. 22:00:00", State.LOADED, Reason.DEMAND),
        ("25. 22:25:00", State.UNLOADED, Reason.SCHEDULE),
    ]


def test_an_idle_model_steps_down_twice() -> None:
    assert story(IDLE, demand=(NIGHT_WORK,)) == [
        ("25. 22:00:00", State.LOADED, Reason.DEMAND),
        ("25. 22:25:00", State.UNLOADED, Reason.IDLE),
        ("25. 23:10:00", State.ZERO, Reason.IDLE),
    ]


def test_a_load_takes_time_and_the_stay_counts_from_the_end_of_the_work_that_waited() -> None:
    short = (utc("2026-11-25T22:00"), utc("2026-11-25T22:00:10"))
    assert story(IDLE, demand=(short,), start_seconds=60) == [
        ("25. 22:00:00", State.LOADED, Reason.DEMAND),
        ("25. 22:16:00", State.UNLOADED, Reason.IDLE),
        ("25. 23:01:00", State.ZERO, Reason.IDLE),
    ]


def test_an_auto_lead_time_is_the_time_that_a_load_takes() -> None:
    assert story(spec_of(schedule={**DAY, "leadTime": "Auto"}), start_seconds=90)[0] == (
        ("25. 06:58:30", State.LOADED, Reason.SCHEDULE)
    )


def test_exceptions_and_overrides_are_forecast() -> None:
    closed = exception("closed", "2026-11-25T12:00:00Z", "2026-11-25T14:00:00Z", state=Mode.ZERO)
    override = {"state": "Loaded", "until": "2026-11-25T05:00:00Z"}
    assert story(spec_of(schedule={**DAY, "exceptions": [closed]}, override=override))[:4] == [
        ("25. 05:00:00", State.UNLOADED, Reason.SCHEDULE),
        ("25. 07:00:00", State.LOADED, Reason.SCHEDULE),
        ("25. 12:00:00", State.ZERO, Reason.EXCEPTION),
        ("25. 14:00:00", State.LOADED, Reason.SCHEDULE),
    ]


@pytest.mark.parametrize(
    ("spec", "demand", "expected"),
    [
        pytest.param(SEED, (), Totals(26 * HOUR, 22 * HOUR, 0, cold_starts=0, loads=2), id="a schedule without work"),
        pytest.param(
            SEED,
            (NIGHT_WORK,),
            Totals(26 * HOUR + 25 * 60, 22 * HOUR - 25 * 60, 0, cold_starts=1, loads=3),
            id="a schedule with work at night",
        ),
        pytest.param(
            SEED,
            ((utc("2026-11-25T12:00"), utc("2026-11-25T13:00")),),
            Totals(26 * HOUR, 22 * HOUR, 0, cold_starts=0, loads=2),
            id="work while the model is loaded changes nothing",
        ),
        pytest.param(
            SEED,
            ((utc("2026-11-25T07:00"), utc("2026-11-25T07:10")),),
            Totals(26 * HOUR, 22 * HOUR, 0, cold_starts=0, loads=2),
            id="work at the minute of a scheduled load finds it loaded",
        ),
        pytest.param(
            SEED,
            ((utc("2026-11-25T19:30"), utc("2026-11-25T21:00")),),
            Totals(27 * HOUR, 21 * HOUR, 0, cold_starts=0, loads=2),
            id="work across the evening holds the model until it ends",
        ),
        pytest.param(
            IDLE,
            (NIGHT_WORK,),
            Totals(25 * 60, 45 * 60, 47 * HOUR - 10 * 60, cold_starts=1, loads=1),
            id="idle times",
        ),
        pytest.param(
            spec_of(desiredState="Zero", suspend=True),
            (NIGHT_WORK,),
            Totals(zero_seconds=48 * HOUR),
            id="a suspended model serves nothing",
        ),
        pytest.param(
            spec_of(schedule=DAY, demandPolicy="Refuse"),
            (NIGHT_WORK,),
            Totals(26 * HOUR, 22 * HOUR, 0, cold_starts=0, loads=2),
            id="refused work wakes nothing",
        ),
        pytest.param(
            IDLE,
            ((START - timedelta(hours=1), START + timedelta(hours=1)),),
            Totals(HOUR + 15 * 60, 45 * 60, 46 * HOUR, cold_starts=1, loads=1),
            id="work that began before the period counts from its start",
        ),
    ],
)
def test_the_totals_of_two_days(spec: Spec, demand: tuple[Period, ...], expected: Totals) -> None:
    found = totals(spec, start=START, end=END, demand=demand)
    assert found == expected
    assert found.loaded_seconds + found.unloaded_seconds + found.zero_seconds == (END - START).total_seconds()


def test_work_that_comes_while_the_model_loads_starts_cold_too() -> None:
    work = (utc("2026-11-25T07:00:10"), utc("2026-11-25T07:05"))
    found = totals(SEED, start=START, end=END, demand=[work], start_seconds=60)
    assert (found.cold_starts, found.loads) == (1, 2)


def test_work_refused_at_night_is_let_in_when_the_mode_allows_it() -> None:
    spec = spec_of(demandPolicy="Refuse", schedule={"entries": [EVENING, {**MORNING, "state": "Auto"}]})
    until_morning = (utc("2026-11-25T22:00"), utc("2026-11-26T07:30"))
    assert story(spec, demand=(until_morning,)) == [
        ("26. 07:00:00", State.LOADED, Reason.DEMAND),
        ("26. 07:45:00", State.UNLOADED, Reason.IDLE),
    ]


@pytest.mark.parametrize(
    ("periods", "expected"),
    [
        pytest.param([(1, 2), (3, 4)], [(1, 2), (3, 4)], id="those apart stay apart"),
        pytest.param([(3, 4), (1, 2)], [(1, 2), (3, 4)], id="those out of order are ordered"),
        pytest.param([(1, 2), (2, 3)], [(1, 3)], id="those that touch are one"),
        pytest.param([(1, 9), (2, 3), (8, 10)], [(1, 10)], id="those that overlap are one"),
        pytest.param([(2, 2), (4, 3)], [], id="empty ones are none"),
    ],
)
def test_periods_of_work(periods: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    def as_times(pairs: list[tuple[int, int]]) -> list[tuple[datetime, datetime]]:
        return [(START + timedelta(hours=start), START + timedelta(hours=end)) for start, end in pairs]

    assert merged(as_times(periods)) == as_times(expected)


def test_a_schedule_that_cannot_be_obeyed_has_no_forecast() -> None:
    with pytest.raises(ScheduleError, match="there is no time zone 'Mars/Olympus'"):
        forecast(spec_of(schedule={"timeZone": "Mars/Olympus"}), start=START, end=END)


def test_a_forecast_ends_though_a_schedule_fires_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "MAX_STEPS", 200)
    spec = spec_of(schedule={"entries": [{**EVENING, "cron": "*/2 * * * *"}, {**MORNING, "cron": "1-59/2 * * * *"}]})
    transitions = forecast(spec, start=START, end=END)
    with pytest.raises(ForecastTooLong, match=r"more than 200 instants .* ends at 2026-11-25 03:20"):
        list(transitions)
