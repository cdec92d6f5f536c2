"""The orders to come: what every search into the future steps through."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from testing.planner_cases import DAY, EVENING, MORNING, exception, manual_command, spec_of, utc
from whispermodel.planning.modes import MAX_CHANGES, Orders, Reason
from whispermodel.planning.schedule import timetable_of
from whispermodel.states import Mode

NIGHT = utc("2026-11-25T23:00")
HOUR = timedelta(hours=1)
EVERY_MINUTE: dict[str, object] = {"name": "busy", "cron": "* * * * *", "state": "Loaded"}


def orders_of(**spec: object) -> Orders:
    read = spec_of(**spec)
    return Orders(read, timetable_of(read.schedule))


def times(orders: Orders, after: datetime, *, most: int = 3, **options: object) -> list[str]:
    found = orders.timeline(after, **options)  # type: ignore[arg-type]
    return [f"{at:%a %H:%M}" for at, _ in list(found)[:most]]


def test_orders_come_in_turn_each_with_what_it_brings() -> None:
    coming = list(orders_of(schedule=DAY).timeline(NIGHT))[:3]
    assert [(f"{at:%a %H:%M}", in_force.mode, in_force.by) for at, in_force in coming] == [
        ("Thu 07:00", Mode.LOADED, "schedule 'morning'"),
        ("Thu 20:00", Mode.UNLOADED, "schedule 'evening'"),
        ("Fri 07:00", Mode.LOADED, "schedule 'morning'"),
    ]


def test_an_exception_swallows_the_fires_inside_it() -> None:
    closed = exception("closed", "2026-11-26T06:00:00Z", "2026-11-26T21:00:00Z", state=Mode.ZERO)
    orders = orders_of(schedule={**DAY, "exceptions": [closed]})
    assert times(orders, NIGHT) == ["Thu 06:00", "Thu 21:00", "Fri 07:00"]


def test_a_fire_of_the_mode_in_force_is_skipped_unless_renewals_count() -> None:
    orders = orders_of(schedule={"entries": [EVENING, {**MORNING, "cron": "0 7 * * 6"}]})
    assert times(orders, NIGHT, most=1) == ["Sat 07:00"]
    assert times(orders, NIGHT, most=1, renewals=True) == ["Thu 20:00"]


def test_a_fire_that_ends_a_manual_command_is_not_skipped() -> None:
    spec = spec_of(schedule={"entries": [MORNING]})
    manual = manual_command(Mode.LOADED, "2026-11-25T22:00")
    [(at, in_force)] = Orders(spec, timetable_of(spec.schedule), manual=manual).timeline(NIGHT)
    assert (at, in_force.reason) == (utc("2026-11-26T07:00"), Reason.SCHEDULE)


def test_a_lead_time_adds_the_instants_before_each_change_and_marks_add_themselves() -> None:
    marks = [utc("2026-11-26T12:00"), utc("2026-11-25T22:00")]
    expected = ["Thu 06:00", "Thu 07:00", "Thu 12:00", "Thu 19:00"]
    assert times(orders_of(schedule=DAY), NIGHT, most=4, lead=HOUR, marks=marks) == expected


def test_nothing_comes_without_a_schedule() -> None:
    assert times(orders_of(desiredState="Loaded"), NIGHT) == []
    assert times(orders_of(), NIGHT) == []


def test_it_is_bounded_where_every_fire_counts() -> None:
    orders = orders_of(schedule={"entries": [EVERY_MINUTE]})
    assert len(list(orders.timeline(NIGHT, renewals=True))) == MAX_CHANGES
    assert list(orders.timeline(NIGHT)) == []


entries = st.lists(
    st.tuples(st.integers(0, 59), st.integers(0, 23), st.sampled_from(["*", "1-5", "6"]), st.sampled_from(list(Mode))),
    max_size=3,
)
pauses = st.none() | st.tuples(st.integers(0, 72), st.integers(1, 48), st.sampled_from(list(Mode)))


@settings(derandomize=True, deadline=None, max_examples=60, database=None)
@given(entries, pauses, st.sampled_from(["Europe/Berlin", "Asia/Kathmandu"]))
def test_between_two_instants_the_mode_does_not_change(
    drawn: list[tuple[int, int, str, Mode]], pause: tuple[int, int, Mode] | None, zone: str
) -> None:
    fires = [
        {"name": f"e{i}", "cron": f"{minute} {hour} * * {days}", "state": mode}
        for i, (minute, hour, days, mode) in enumerate(drawn)
    ]
    closed = []
    if pause:
        start = NIGHT + pause[0] * HOUR
        closed = [exception("closed", start.isoformat(), (start + pause[1] * HOUR).isoformat(), state=pause[2])]
    orders = orders_of(schedule={"timeZone": zone, "entries": fires, "exceptions": closed})
    instants = [NIGHT, *(at for at, _ in orders.timeline(NIGHT))][:12]
    for start, end in pairwise(instants):
        assert start < end
        modes = {orders.in_force(start + part * (end - start) / 5).mode for part in range(5)}
        assert len(modes) == 1
