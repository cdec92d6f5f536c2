"""When schedules fire: instants worked out by hand from each zone's published changes.

The changes of 2026, in UTC: Berlin 29 March and 25 October at 01:00; New York 8 March at 07:00 and 1 November at 06:00;
Lord Howe (by half an hour) 4 April at 15:00 and 3 October at 15:30; Casablanca leaves summer time for Ramadan on
15 February at 02:00 and returns on 22 March at 02:00. Sao Paulo, at its midnight, 4 November 2018 at 03:00 and
17 February 2019 at 02:00. Kathmandu stands still at +05:45.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest

from testing.planner_cases import spec_of, utc
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import plan
from whispermodel.planning.schedule import Fire, Timetable
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

DAY_AND_NIGHT = "0 7 * * * Loaded; 0 20 * * * Unloaded"
HALF_HOURS = "0 * * * * Loaded; 30 * * * * Unloaded"
FRIDAY_13TH = "0 6 13 * 5 Loaded; 0 18 * * * Unloaded"
LEAP = "0 0 29 2 * Zero; 0 0 1 3 * Loaded"
NEW_YEAR = "0 0 1 1 * Zero; 0 8 1 1 * Loaded"


@dataclass(frozen=True)
class Case:
    """At an instant: the mode of the last fire, when that was, and when the next one is; all in UTC."""

    zone: str
    entries: str
    at: str
    mode: str
    since: str
    until: str

    @property
    def spec(self) -> Spec:
        return scheduled(self.zone, self.entries)


def scheduled(zone: str, entries: str) -> Spec:
    """Read entries written as crontab lines with the state last, between semicolons."""
    lines = [line.strip().rsplit(" ", 1) for line in entries.split(";")]
    named = [{"name": f"entry-{i}", "cron": cron, "state": state} for i, (cron, state) in enumerate(lines)]
    return spec_of(schedule={"timeZone": zone, "entries": named})


BERLIN, NEW_YORK, SAO_PAULO = "Europe/Berlin", "America/New_York", "America/Sao_Paulo"
LORD_HOWE, KATHMANDU, CASABLANCA, UTC = "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "Etc/UTC"

AT_HALF_PAST_TWO = "30 2 * * * Loaded; 0 1 * * * Unloaded"
NOON_TOO = "30 2 * * * Loaded; 0 12 * * * Unloaded"
TWICE_TWO = "15 2 * * * Unloaded; 45 2 * * * Loaded"
GAPS_END = "30 2 * * * Loaded; 0 3 * * * Unloaded"
EVERY_TEN = "*/10 2 * * * Loaded; 0 1 * * * Unloaded"
SUNDAYS = "30 2 * * 0 Zero; 0 0 * * 0 Loaded"
NIGHTLY = "30 1 * * * Unloaded; 0 9 * * 1-5 Loaded"
MIDNIGHT = "0 0 * * * Unloaded; 0 12 * * * Loaded"
SATURDAYS = "30 23 * * 6 Unloaded; 0 0 * * 0 Loaded"
QUARTER_PAST_TWO = "15 2 * * * Loaded; 0 1 * * * Unloaded"
QUARTER_TO_TWO = "45 1 * * * Loaded; 0 1 * * * Unloaded"
TENS_FROM_THREE = "*/10 3 * * * Loaded; 0 1 * * * Unloaded"
ALL_OF_ONE = "* 1 * * * Loaded; 0 4 * * * Unloaded"
QUARTERS_OF_ZERO = "*/15 0 * * * Loaded; 0 12 * * * Unloaded"
RAMADAN = "30 2 * * * Loaded; 0 20 * * * Unloaded"
KATHMANDU_DAY = "0 0 * * * Unloaded; 30 9 * * * Loaded"
WEEKDAYS = "0 7 * * 1-5 Loaded; 0 20 * * * Unloaded"
OVERLAPPING = "0 8-18 * * * Loaded; 30 12 * * * Unloaded"
SEVENTH_DAY = "0 7 * * 7 Loaded; 0 20 * * * Unloaded"
STARRED_DAY = "0 6 */2 * 5 Loaded; 0 18 * * * Unloaded"

TABLE = {
    # Berlin, where 02:00-03:00 is skipped on 29 March and comes twice on 25 October
    "the day before the gap": Case(
        BERLIN, AT_HALF_PAST_TWO, "2026-03-28T12:00", "Loaded", "2026-03-28T01:30", "2026-03-29T00:00"
    ),
    "a fire in the skipped hour is still to come before the gap": Case(
        BERLIN, AT_HALF_PAST_TWO, "2026-03-29T00:59:59", "Unloaded", "2026-03-29T00:00", "2026-03-29T01:00"
    ),
    "a fire in the skipped hour happens right after the gap": Case(
        BERLIN, AT_HALF_PAST_TWO, "2026-03-29T01:00", "Loaded", "2026-03-29T01:00", "2026-03-29T23:00"
    ),
    "the day after the gap fires at its own minute": Case(
        BERLIN, AT_HALF_PAST_TWO, "2026-03-30T00:30", "Loaded", "2026-03-30T00:30", "2026-03-30T23:00"
    ),
    "a skipped fire meets another at the gap's end: the lower wins": Case(
        BERLIN, GAPS_END, "2026-03-29T01:00", "Unloaded", "2026-03-29T01:00", "2026-03-30T00:30"
    ),
    "all fires of a skipped hour happen at once": Case(
        BERLIN, EVERY_TEN, "2026-03-29T01:00", "Loaded", "2026-03-29T01:00", "2026-03-29T23:00"
    ),
    "the short night is an hour shorter": Case(
        BERLIN, DAY_AND_NIGHT, "2026-03-29T04:59:59", "Unloaded", "2026-03-28T19:00", "2026-03-29T05:00"
    ),
    "the morning of the spring change": Case(
        BERLIN, DAY_AND_NIGHT, "2026-03-29T05:00", "Loaded", "2026-03-29T05:00", "2026-03-29T18:00"
    ),
    "a second before the first 02:30": Case(
        BERLIN, NOON_TOO, "2026-10-25T00:29:59", "Unloaded", "2026-10-24T10:00", "2026-10-25T00:30"
    ),
    "the first 02:30 fires": Case(
        BERLIN, NOON_TOO, "2026-10-25T00:30", "Loaded", "2026-10-25T00:30", "2026-10-25T11:00"
    ),
    "the second 02:30 does not": Case(
        BERLIN, NOON_TOO, "2026-10-25T01:30", "Loaded", "2026-10-25T00:30", "2026-10-25T11:00"
    ),
    "two fires within the repeated hour, at its first end": Case(
        BERLIN, TWICE_TWO, "2026-10-25T00:59:59", "Loaded", "2026-10-25T00:45", "2026-10-26T01:15"
    ),
    "two fires within the repeated hour are not undone when it comes again": Case(
        BERLIN, TWICE_TWO, "2026-10-25T01:20", "Loaded", "2026-10-25T00:45", "2026-10-26T01:15"
    ),
    "hourly fires rest in the hour's second coming": Case(
        BERLIN, HALF_HOURS, "2026-10-25T01:15", "Unloaded", "2026-10-25T00:30", "2026-10-25T02:00"
    ),
    "hourly fires go on after it": Case(
        BERLIN, HALF_HOURS, "2026-10-25T02:00", "Loaded", "2026-10-25T02:00", "2026-10-25T02:30"
    ),
    "the long night is an hour longer": Case(
        BERLIN, DAY_AND_NIGHT, "2026-10-25T05:59:59", "Unloaded", "2026-10-24T18:00", "2026-10-25T06:00"
    ),
    # New York
    "a Sunday's fire before New York's gap": Case(
        NEW_YORK, SUNDAYS, "2026-03-08T06:59:59", "Loaded", "2026-03-08T05:00", "2026-03-08T07:00"
    ),
    "a Sunday's fire after New York's gap": Case(
        NEW_YORK, SUNDAYS, "2026-03-08T07:00", "Zero", "2026-03-08T07:00", "2026-03-15T04:00"
    ),
    "the first 01:30 in New York": Case(
        NEW_YORK, NIGHTLY, "2026-11-01T05:30", "Unloaded", "2026-11-01T05:30", "2026-11-02T06:30"
    ),
    "the second 01:30 in New York": Case(
        NEW_YORK, NIGHTLY, "2026-11-01T06:30", "Unloaded", "2026-11-01T05:30", "2026-11-02T06:30"
    ),
    "the first working day of New York's winter": Case(
        NEW_YORK, NIGHTLY, "2026-11-02T14:00", "Loaded", "2026-11-02T14:00", "2026-11-03T06:30"
    ),
    # Sao Paulo, whose changes were at midnight
    "before a midnight that does not exist": Case(
        SAO_PAULO, MIDNIGHT, "2018-11-04T02:59:59", "Loaded", "2018-11-03T15:00", "2018-11-04T03:00"
    ),
    "a midnight that does not exist is at 01:00": Case(
        SAO_PAULO, MIDNIGHT, "2018-11-04T03:00", "Unloaded", "2018-11-04T03:00", "2018-11-04T14:00"
    ),
    "23:30 for the second time, still Saturday": Case(
        SAO_PAULO, SATURDAYS, "2019-02-17T02:30", "Unloaded", "2019-02-17T01:30", "2019-02-17T03:00"
    ),
    "Sunday begins once": Case(
        SAO_PAULO, SATURDAYS, "2019-02-17T03:00", "Loaded", "2019-02-17T03:00", "2019-02-24T02:30"
    ),
    "today's Sao Paulo, before seven": Case(
        SAO_PAULO, DAY_AND_NIGHT, "2026-11-23T09:59:59", "Unloaded", "2026-11-22T23:00", "2026-11-23T10:00"
    ),
    "today's Sao Paulo, at seven": Case(
        SAO_PAULO, DAY_AND_NIGHT, "2026-11-23T10:00", "Loaded", "2026-11-23T10:00", "2026-11-23T23:00"
    ),
    # Lord Howe, whose changes are of half an hour
    "before half an hour is skipped": Case(
        LORD_HOWE, QUARTER_PAST_TWO, "2026-10-03T15:29:59", "Unloaded", "2026-10-03T14:30", "2026-10-03T15:30"
    ),
    "a fire in the skipped half hour happens at its end": Case(
        LORD_HOWE, QUARTER_PAST_TWO, "2026-10-03T15:30", "Loaded", "2026-10-03T15:30", "2026-10-04T14:00"
    ),
    "the hour after a skipped half hour is not late": Case(
        LORD_HOWE, TENS_FROM_THREE, "2026-10-03T15:59:59", "Unloaded", "2026-10-03T14:30", "2026-10-03T16:00"
    ),
    "every ten minutes of it": Case(
        LORD_HOWE, TENS_FROM_THREE, "2026-10-03T16:05", "Loaded", "2026-10-03T16:00", "2026-10-03T16:10"
    ),
    "the last minute before a skipped half hour": Case(
        LORD_HOWE, ALL_OF_ONE, "2026-10-03T15:45", "Loaded", "2026-10-03T15:29", "2026-10-03T17:00"
    ),
    "before the first 01:45": Case(
        LORD_HOWE, QUARTER_TO_TWO, "2026-04-04T14:44:59", "Unloaded", "2026-04-04T14:00", "2026-04-04T14:45"
    ),
    "the second 01:45 of a repeated half hour": Case(
        LORD_HOWE, QUARTER_TO_TWO, "2026-04-04T15:15", "Loaded", "2026-04-04T14:45", "2026-04-05T14:30"
    ),
    "the hour before a repeated half hour": Case(
        LORD_HOWE, QUARTERS_OF_ZERO, "2026-04-04T15:40", "Loaded", "2026-04-04T13:45", "2026-04-05T01:30"
    ),
    # Kathmandu and year ends
    "the last second of Kathmandu's year": Case(
        KATHMANDU, KATHMANDU_DAY, "2026-12-31T18:14:59", "Loaded", "2026-12-31T03:45", "2026-12-31T18:15"
    ),
    "the first second of Kathmandu's year": Case(
        KATHMANDU, KATHMANDU_DAY, "2026-12-31T18:15", "Unloaded", "2026-12-31T18:15", "2027-01-01T03:45"
    ),
    "the last second of the year": Case(
        UTC, NEW_YEAR, "2026-12-31T23:59:59", "Loaded", "2026-01-01T08:00", "2027-01-01T00:00"
    ),
    "the first second of the year": Case(
        UTC, NEW_YEAR, "2027-01-01T00:00", "Zero", "2027-01-01T00:00", "2027-01-01T08:00"
    ),
    # Casablanca, where winter time is Ramadan
    "02:30 comes again as Ramadan begins": Case(
        CASABLANCA, RAMADAN, "2026-02-15T02:30", "Loaded", "2026-02-15T01:30", "2026-02-15T20:00"
    ),
    "02:30 in Ramadan": Case(CASABLANCA, RAMADAN, "2026-02-16T02:30", "Loaded", "2026-02-16T02:30", "2026-02-16T20:00"),
    "before 02:00 is skipped as Ramadan ends": Case(
        CASABLANCA, RAMADAN, "2026-03-22T01:59:59", "Unloaded", "2026-03-21T20:00", "2026-03-22T02:00"
    ),
    "02:30 is skipped as Ramadan ends": Case(
        CASABLANCA, RAMADAN, "2026-03-22T02:00", "Loaded", "2026-03-22T02:00", "2026-03-22T19:00"
    ),
    # Leap days
    "a leap day": Case(UTC, LEAP, "2028-02-29T12:00", "Zero", "2028-02-29T00:00", "2028-03-01T00:00"),
    "a year without one": Case(UTC, LEAP, "2027-03-01T00:00", "Loaded", "2027-03-01T00:00", "2028-02-29T00:00"),
    "2100 has none": Case(UTC, "0 0 29 2 * Zero", "2099-12-01T00:00", "Zero", "2096-02-29T00:00", "2104-02-29T00:00"),
    # Both day fields mean either
    "the 13th, a Sunday": Case(UTC, FRIDAY_13TH, "2026-12-13T06:00", "Loaded", "2026-12-13T06:00", "2026-12-13T18:00"),
    "a Friday, the 18th": Case(UTC, FRIDAY_13TH, "2026-12-18T06:00", "Loaded", "2026-12-18T06:00", "2026-12-18T18:00"),
    "neither": Case(UTC, FRIDAY_13TH, "2026-12-16T06:00", "Unloaded", "2026-12-15T18:00", "2026-12-16T18:00"),
    "a starred day field narrows: an even Friday": Case(
        UTC, STARRED_DAY, "2026-12-18T07:00", "Unloaded", "2026-12-17T18:00", "2026-12-18T18:00"
    ),
    "a starred day field narrows: an odd Friday": Case(
        UTC, STARRED_DAY, "2026-12-11T07:00", "Loaded", "2026-12-11T06:00", "2026-12-11T18:00"
    ),
    # Weekdays, overlaps and ties
    "1-5 is Monday to Friday": Case(
        UTC, WEEKDAYS, "2026-11-28T12:00", "Unloaded", "2026-11-27T20:00", "2026-11-28T20:00"
    ),
    "7 is Sunday": Case(UTC, SEVENTH_DAY, "2026-11-29T07:00", "Loaded", "2026-11-29T07:00", "2026-11-29T20:00"),
    "overlapping entries: the one that fired last": Case(
        UTC, OVERLAPPING, "2026-11-25T12:45", "Unloaded", "2026-11-25T12:30", "2026-11-25T13:00"
    ),
    "overlapping entries: until another fires": Case(
        UTC, OVERLAPPING, "2026-11-25T13:00", "Loaded", "2026-11-25T13:00", "2026-11-25T14:00"
    ),
}


def instant(fire: Fire | None) -> str:
    return fire.at.strftime("%Y-%m-%dT%H:%M") if fire else ""


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in TABLE.items()])
def test_what_fired_last_and_what_fires_next(case: Case) -> None:
    timetable, now = Timetable(case.spec.schedule), utc(case.at)
    last = timetable.last_fire(now)
    assert last is not None
    assert (last.entry.state, instant(last)) == (Mode(case.mode), case.since)
    assert instant(timetable.next_fire(now)) == case.until


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in TABLE.items()])
def test_the_target_is_the_mode_of_the_last_fire(case: Case) -> None:
    assert plan(case.spec, Observed(State.LOADED), utc(case.at)).target is State(case.mode)


@pytest.mark.parametrize(("lower", "higher"), list(pairwise(Mode)))
def test_of_two_fires_at_the_same_instant_the_lower_state_wins(lower: Mode, higher: Mode) -> None:
    for first, second in ((lower, higher), (higher, lower)):
        timetable = Timetable(scheduled(UTC, f"0 12 * * * {first}; 0 12 * * * {second}").schedule)
        last, coming = timetable.last_fire(utc("2026-11-25T12:00")), timetable.next_fire(utc("2026-11-25T12:00"))
        assert last is not None
        assert coming is not None
        assert {last.entry.state, coming.entry.state} == {lower}


def test_a_fire_counts_from_its_own_instant_to_the_microsecond() -> None:
    timetable = Timetable(scheduled(UTC, DAY_AND_NIGHT).schedule)
    assert instant(timetable.last_fire(utc("2026-11-25T06:59:59.999999"))) == "2026-11-24T20:00"
    assert instant(timetable.last_fire(utc("2026-11-25T07:00:00"))) == "2026-11-25T07:00"
    assert instant(timetable.next_fire(utc("2026-11-25T06:59:59.999999"))) == "2026-11-25T07:00"
    assert instant(timetable.next_fire(utc("2026-11-25T07:00:00"))) == "2026-11-25T20:00"
