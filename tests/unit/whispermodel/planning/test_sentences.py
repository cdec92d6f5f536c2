"""Messages are whole sentences that a person can act on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from testing.planner_cases import DAY, EVENING, MORNING, exception, manual_command, spec_of, utc, worked
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

SATURDAY = utc("2026-11-21T09:00-03:00")
LOADED, UNLOADED = Observed(State.LOADED), Observed(State.UNLOADED)
WEEKDAYS = {**MORNING, "cron": "0 7 * * 1-5"}
SAO_PAULO = {"timeZone": "America/Sao_Paulo", "entries": [EVENING, WEEKDAYS]}
FRIDAY_WORK = worked(State.LOADED, began="2026-11-20T10:00-03:00", ended="2026-11-21T08:50-03:00")
XMAS = exception("christmas", "2026-11-20T00:00:00-03:00", "2026-12-27T00:00:00-03:00", state=Mode.ZERO)
RELEASE_TEST = {"state": "Loaded", "until": "2026-11-27T23:00:00-03:00", "reason": "release test"}
ZERO_LATER = {"unloadAfter": "5m", "scaleToZeroAfter": "1h"}


@pytest.mark.parametrize(
    ("spec", "seen", "message"),
    [
        pytest.param(
            spec_of(schedule=SAO_PAULO),
            UNLOADED,
            "Unloaded by schedule 'evening' since Fri 20:00 -03; loads Mon 07:00 -03.",
            id="the schedule",
        ),
        pytest.param(
            spec_of(schedule={**SAO_PAULO, "entries": [EVENING]}),
            UNLOADED,
            "Unloaded by schedule 'evening' since Fri 2026-11-20 20:00 -03.",
            id="a schedule after which nothing comes",
        ),
        pytest.param(
            spec_of(schedule={"timeZone": "Europe/Berlin", "entries": [{**EVENING, "state": "Zero"}, WEEKDAYS]}),
            Observed(State.ZERO),
            "Zero by schedule 'evening' since Fri 20:00 CET; loads Mon 07:00 CET.",
            id="a zone whose times have letters",
        ),
        pytest.param(
            spec_of(schedule={"timeZone": "Asia/Kathmandu", "entries": [EVENING, {**MORNING, "cron": "0 0 1 1 *"}]}),
            UNLOADED,
            "Unloaded by schedule 'evening' since Thu 2026-01-01 20:00 +0545; loads Fri 2027-01-01 00:00 +0545.",
            id="times more than six days apart have dates",
        ),
        pytest.param(
            spec_of(schedule={**SAO_PAULO, "leadTime": "48h"}),
            LOADED,
            "Loaded early for schedule 'morning', which starts Mon 2026-11-23 07:00 -03; "
            "unloads Fri 2026-11-27 20:00 -03.",
            id="a load so far ahead of its fire that only a weekend unloads",
        ),
        pytest.param(
            spec_of(schedule={"timeZone": "America/Sao_Paulo", "exceptions": [XMAS]}, idle={"unloadAfter": "1h"}),
            Observed(State.ZERO),
            "Zero by exception 'christmas' since Fri 2026-11-20 00:00 -03; starts its pod Sun 2026-12-27 00:00 -03.",
            id="an exception",
        ),
        pytest.param(
            spec_of(schedule=SAO_PAULO, override=RELEASE_TEST),
            replace(LOADED, spec_since=utc("2026-11-21T08:00-03:00")),
            "Loaded by override (release test) since Sat 2026-11-21 08:00 -03; unloads Fri 2026-11-27 23:00 -03.",
            id="an override",
        ),
        pytest.param(
            spec_of(desiredState="Loaded", override={**RELEASE_TEST, "reason": ""}),
            LOADED,
            "Loaded by override; in effect until Sat 2026-11-28 02:00 UTC.",
            id="an override after which nothing changes",
        ),
        pytest.param(
            spec_of(desiredState="Zero"),
            replace(LOADED, spec_since=SATURDAY),
            "Zero by desiredState since Sat 2026-11-21 12:00 UTC.",
            id="desiredState",
        ),
        pytest.param(spec_of(desiredState="Zero"), LOADED, "Zero by desiredState.", id="desiredState, since long ago"),
        pytest.param(
            spec_of(schedule=SAO_PAULO),
            replace(LOADED, manual=manual_command(Mode.LOADED, "2026-11-21T08:30-03:00")),
            "Loaded manually since Sat 08:30 -03; unloads Sat 20:00 -03.",
            id="a manual load",
        ),
        pytest.param(
            spec_of(),
            replace(UNLOADED, in_flight=1),
            "Loaded: requests are running or waiting; stays loaded for 15m afterwards.",
            id="work",
        ),
        pytest.param(
            spec_of(),
            FRIDAY_WORK,
            "Loaded: last request ended Sat 11:50 UTC; unloads Sat 12:05 UTC.",
            id="the stay after work",
        ),
        pytest.param(
            spec_of(idle=ZERO_LATER),
            FRIDAY_WORK,
            "Unloaded: idle since Sat 11:50 UTC; scales to zero Sat 12:50 UTC.",
            id="idleness",
        ),
        pytest.param(
            spec_of(idle=ZERO_LATER),
            worked(State.ZERO, began="2026-11-19T10:00", ended="2026-11-19T10:30"),
            "Zero: idle since Thu 2026-11-19 10:30 UTC.",
            id="idleness at its lowest",
        ),
        pytest.param(spec_of(), UNLOADED, "Unloaded until a request arrives.", id="before any work"),
        pytest.param(
            spec_of(idle=ZERO_LATER, schedule=SAO_PAULO | {"entries": [WEEKDAYS | {"state": "Auto"}]}),
            Observed(State.ZERO),
            "Zero until a request arrives.",
            id="an entry that brings Auto, before any work",
        ),
        pytest.param(
            spec_of(),
            replace(LOADED, unresponsive_since=SATURDAY),
            "Staying Loaded: a pod has not responded since Sat 2026-11-21 12:00 UTC; it is assumed busy for up to 5m.",
            id="unknown activity",
        ),
        pytest.param(
            spec_of(suspend=True),
            LOADED,
            "Suspended: the plan changes nothing until spec.suspend is false.",
            id="suspend",
        ),
    ],
)
def test_the_message_for(spec: Spec, seen: Observed, message: str) -> None:
    assert plan(spec, seen, SATURDAY).message == message


EVERY_TEN = {"name": "busy", "cron": "*/10 8-18 * * *", "state": "Loaded"}
FRIDAY = utc("2026-11-20T12:00")


@pytest.mark.parametrize(
    ("entries", "spec_since", "since"),
    [
        pytest.param([EVENING, WEEKDAYS], None, "Fri 20:00", id="the first of several evenings"),
        pytest.param([EVENING, WEEKDAYS], utc("2026-11-22T15:00"), "Fri 20:00", id="whenever the spec was changed"),
        pytest.param([EVENING], FRIDAY, "Thu 2026-11-19 20:00", id="that in force when the spec came"),
        pytest.param([EVENING], utc("2026-11-22T23:30"), "Sun 2026-11-22 20:00", id="the last, of a new spec"),
    ],
)
def test_a_fire_that_brings_nothing_new_does_not_change_the_message(
    entries: list[object], spec_since: datetime | None, since: str
) -> None:
    sunday, seen = utc("2026-11-22T23:59"), replace(UNLOADED, spec_since=spec_since)
    message = plan(spec_of(schedule={"entries": entries}), seen, sunday).message
    assert f"by schedule 'evening' since {since} UTC" in message


def test_through_a_day_of_fires_of_one_entry_the_message_stays() -> None:
    spec, start = spec_of(schedule={"entries": [EVERY_TEN, EVENING]}), utc("2026-11-22T08:00")
    messages = {plan(spec, LOADED, start + timedelta(minutes=count)).message for count in range(12 * 60)}
    assert messages == {"Loaded by schedule 'busy' since Sun 08:00 UTC; unloads Sun 20:00 UTC."}


def test_of_two_entries_that_fire_at_once_the_one_that_lost_is_not_in_force_since_then() -> None:
    entries = [EVENING, {"name": "late", "cron": "0 20,21 * * *", "state": "Loaded"}]
    message = plan(spec_of(schedule={"entries": entries}), LOADED, utc("2026-11-22T22:00")).message
    assert message.startswith("Loaded by schedule 'late' since Sun 21:00 UTC")


@pytest.mark.parametrize(
    ("spec", "seen", "summary"),
    [
        pytest.param(spec_of(schedule=SAO_PAULO), UNLOADED, "Loaded Mon 07:00 -03", id="within the week, by weekday"),
        pytest.param(spec_of(schedule=DAY), LOADED, "Unloaded Sat 20:00 UTC", id="today, by weekday"),
        pytest.param(
            spec_of(schedule={**SAO_PAULO, "entries": [EVENING, {**MORNING, "cron": "0 7 24 12 *"}]}),
            UNLOADED,
            "Loaded Thu 2026-12-24 07:00 -03",
            id="later, with the date",
        ),
    ],
)
def test_the_column_says_what_comes_next_in_a_few_words(spec: Spec, seen: Observed, summary: str) -> None:
    coming = plan(spec, seen, SATURDAY).next_transition
    assert coming is not None
    assert coming.summary == summary


def test_the_transition_to_come_names_what_brings_it() -> None:
    coming = plan(spec_of(schedule=SAO_PAULO), UNLOADED, SATURDAY).next_transition
    assert coming is not None
    assert coming.by == "schedule 'morning'"
