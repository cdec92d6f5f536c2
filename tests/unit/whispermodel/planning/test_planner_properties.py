"""What holds for every resource, observation and instant."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from testing.depth import depth
from testing.planner_cases import SimulatedModel, passing, reached, spec_of
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand, Reason
from whispermodel.planning.planner import Plan, Step, plan
from whispermodel.planning.schedule import Timetable
from whispermodel.spec import Spec
from whispermodel.states import Mode, State

thorough = settings(derandomize=True, deadline=None, max_examples=depth(ci=100, nightly=1000), database=None)
quick = settings(thorough, max_examples=depth(ci=20, nightly=200))

MINUTE = timedelta(minutes=1)
SHOWN_ZONES = ["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
RESTS = [State.ZERO, State.UNLOADED, State.LOADED]

modes = st.sampled_from(list(Mode))
instants = st.datetimes(datetime(2024, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
spans = st.integers(0, 3 * 24 * 60).map(lambda count: timedelta(minutes=count))
crons = st.one_of(
    st.builds("{} {} * * {}".format, st.integers(0, 59), st.integers(0, 23), st.sampled_from(["*", "1-5", "6", "0,3"])),
    st.builds("{} {} {} * 1".format, st.integers(0, 59), st.integers(0, 23), st.integers(1, 31)),
    st.sampled_from(["0 * * * *", "*/15 8-18 * * *", "30 2 * * *", "0 0 1 1 *", "0 0 29 2 *", "* 3 * * 1"]),
)


@dataclass(frozen=True)
class Situation:
    now: datetime
    spec: Spec
    seen: Observed

    @property
    def plan(self) -> Plan:
        return plan(self.spec, self.seen, self.now)


@dataclass(frozen=True)
class Rules:
    """A spec whose times are relative to an instant that is drawn separately."""

    zone: str
    entries: list[tuple[str, Mode]]
    pauses: list[tuple[timedelta, timedelta, Mode]]
    lead: str
    idle: tuple[str, str | None]
    desired: str
    policy: str
    override: tuple[Mode, timedelta] | None

    def spec(self, now: datetime) -> Spec:
        return spec_of(
            schedule={
                "timeZone": self.zone,
                "entries": [
                    {"name": f"e{i}", "cron": cron, "state": mode} for i, (cron, mode) in enumerate(self.entries)
                ],
                "exceptions": list(self._exceptions(now - timedelta(days=3))),
                "leadTime": self.lead,
            },
            idle={"unloadAfter": self.idle[0], "scaleToZeroAfter": self.idle[1]},
            desiredState=self.desired,
            demandPolicy=self.policy,
            override=self.override
            and {"state": self.override[0], "until": (now + self.override[1] - timedelta(days=1)).isoformat()},
        )

    def _exceptions(self, start: datetime) -> Iterator[dict[str, object]]:
        for i, (wait, length, mode) in enumerate(self.pauses):
            end = start + wait + length + MINUTE
            yield {"name": f"p{i}", "from": (start + wait).isoformat(), "to": end.isoformat(), "state": mode}
            start = end


@dataclass(frozen=True)
class RelativeObservation:
    """An observation whose times are relative to an instant that is drawn separately."""

    state: State
    warm: bool
    work: tuple[int, int]
    idle: tuple[timedelta, timedelta] | None
    unknown: timedelta | None
    manual: tuple[Mode, timedelta] | None
    target: State | None
    spec_for: timedelta | None
    starts: tuple[float, ...]
    retry_in: timedelta | None

    def seen(self, now: datetime) -> Observed:
        return Observed(
            self.state,
            warm=self.warm,
            in_flight=self.work[0],
            waiting=self.work[1],
            work_began=now - self.idle[0] - self.idle[1] if self.idle else None,
            idle_since=now - self.idle[0] if self.idle else None,
            unresponsive_since=now - self.unknown if self.unknown else None,
            manual=ManualCommand(self.manual[0], now - self.manual[1]) if self.manual else None,
            target=self.target,
            spec_since=now - self.spec_for if self.spec_for else None,
            start_seconds=self.starts,
            retry_at=now + self.retry_in if self.retry_in else None,
        )


rules = st.builds(
    Rules,
    zone=st.sampled_from(SHOWN_ZONES),
    entries=st.lists(st.tuples(crons, modes), max_size=3),
    pauses=st.lists(st.tuples(spans, spans, modes), max_size=2),
    lead=st.sampled_from(["0s", "0s", "Auto", "10m", "2h"]),
    idle=st.sampled_from([("15m", None), ("15m", "20m"), ("15m", "1h"), ("8h", "30h"), ("0s", "0s")]),
    desired=st.sampled_from(["Auto", "Auto", "Auto", "Auto", "Loaded", "Unloaded", "Zero"]),
    policy=st.sampled_from(["Wake", "Refuse"]),
    override=st.none() | st.none() | st.tuples(modes, spans),
)
observations = st.builds(
    RelativeObservation,
    state=st.sampled_from(list(State)),
    warm=st.booleans(),
    work=st.sampled_from([(0, 0), (0, 0), (0, 0), (1, 0), (0, 2)]),
    idle=st.none() | st.tuples(spans, spans),
    unknown=st.sampled_from([None, None, None, MINUTE, 4 * MINUTE]),
    manual=st.none() | st.tuples(st.sampled_from([Mode.LOADED, Mode.UNLOADED]), spans),
    target=st.sampled_from([None, *RESTS]),
    spec_for=st.none() | spans,
    starts=st.sampled_from([(), (0.5,), (40.0, 300.0, 20.0)]),
    retry_in=st.sampled_from([None, None, MINUTE]),
)
situations = st.builds(
    lambda now, rules, observation: Situation(now, rules.spec(now), observation.seen(now)),
    instants,
    rules,
    observations,
)


@thorough
@given(situations)
def test_following_the_steps_of_a_plan_reaches_its_target_and_ends(situation: Situation) -> None:
    # For a pod that does not respond, no step is taken.
    model = SimulatedModel(situation.spec, replace(situation.seen, retry_at=None, unresponsive_since=None))
    if situation.seen.state in (State.STARTING, State.UNLOADING):
        model.seen = replace(model.seen, state=State.UNLOADED)
    if situation.seen.state is State.LOADING:
        model.seen = replace(model.seen, state=State.LOADED)
    model.settle(situation.now)
    failed = model.seen.state is State.FAILED and model.plan(situation.now).target is State.UNLOADED
    assert failed or model.seen.state is model.plan(situation.now).target


@thorough
@given(situations)
def test_no_pod_is_changed_because_another_does_not_respond(situation: Situation) -> None:
    planned, without = (
        situation.plan,
        plan(situation.spec, replace(situation.seen, unresponsive_since=None), situation.now),
    )
    assert planned.steps in ((), without.steps)
    assert planned.steps == without.steps or planned.target.rank > without.target.rank


@thorough
@given(situations)
def test_at_most_one_step_and_none_while_it_is_in_progress(situation: Situation) -> None:
    planned = situation.plan
    assert len(planned.steps) <= 1
    for step in planned.steps:
        # Terminating pods do not count, however long they take.
        moves = reached if step is Step.SCALE_DOWN else passing
        in_progress = plan(situation.spec, moves(situation.seen, step), situation.now)
        if in_progress.target is planned.target:
            assert in_progress.steps == ()


@thorough
@given(situations)
def test_steps_lead_towards_the_target(situation: Situation) -> None:
    for step in situation.plan.steps:
        before, after = situation.seen.resting_state.rank, reached(situation.seen, step).resting_state.rank
        goal = situation.plan.target.rank
        assert abs(goal - after) <= abs(goal - before)


@thorough
@given(situations)
def test_times_to_come_lie_in_the_future(situation: Situation) -> None:
    planned = situation.plan
    assert planned.check_at is None or planned.check_at > situation.now
    assert planned.next_transition is None or planned.next_transition.time > situation.now
    assert planned.accepts_at is None or (planned.accepts_at > situation.now and not planned.accepts)


@thorough
@given(situations, st.floats(0, 1, exclude_max=True))
def test_nothing_changes_before_the_plan_is_to_be_reconsidered(situation: Situation, part: float) -> None:
    planned = situation.plan
    horizon = planned.check_at or situation.now + timedelta(days=400)
    later = situation.now + (horizon - situation.now) * part
    assume(later < horizon)
    assert plan(situation.spec, situation.seen, later) == planned


@thorough
@given(situations)
def test_timers_are_monotone(situation: Situation) -> None:
    now, last = situation.now, situation.plan
    for _ in range(20):
        if last.check_at is None:
            return
        assert last.next_transition is None or last.check_at <= last.next_transition.time
        now, last = last.check_at, plan(situation.spec, situation.seen, last.check_at)
        assert last.check_at is None or last.check_at > now


@thorough
@given(situations)
def test_the_next_transition_comes_true_and_nothing_changes_before_it(situation: Situation) -> None:
    seen = replace(situation.seen, in_flight=0, waiting=0, unresponsive_since=None, state=situation.plan.target)
    planned = plan(situation.spec, seen, situation.now)
    coming = planned.next_transition
    horizon = coming.time if coming else situation.now + timedelta(days=7)
    for at in looks(replace(situation, seen=seen), until=horizon, most=12):
        assert plan(situation.spec, seen, at).target is planned.target
    if coming:
        assert plan(situation.spec, seen, coming.time - timedelta(microseconds=1)).target is planned.target
        then = plan(situation.spec, seen, coming.time)
        assert (then.target, then.reason) == (coming.state, coming.reason)
        assert coming.state is not planned.target


def looks(situation: Situation, *, until: datetime, most: int = 60) -> Iterator[datetime]:
    """The first instants before a time at which a plan is looked at."""
    at: datetime | None = situation.now
    for _ in range(most):
        if at is None or at >= until:
            return
        yield at
        at = plan(situation.spec, situation.seen, at).check_at


@quick
@given(situations, st.sampled_from([1, 59, 60, 24 * 60, 7 * 24 * 60, 21 * 24 * 60]))
def test_an_outage_of_any_length_changes_no_answer(situation: Situation, outage: int) -> None:
    rested = replace(situation.seen, in_flight=0, waiting=0, state=State.LOADED)
    up, down = SimulatedModel(situation.spec, rested), SimulatedModel(situation.spec, rested)
    end = situation.now + timedelta(minutes=outage)
    for at in looks(replace(situation, seen=rested), until=end):
        up.settle(at)
    up.settle(end)
    down.settle(end)
    assert (up.plan(end), up.seen.state) == (down.plan(end), down.seen.state)


@thorough
@given(situations, st.sampled_from([(1, 0), (0, 1), (2, 3)]))
def test_demand_wins_upwards_in_every_mode_but_suspend(situation: Situation, work: tuple[int, int]) -> None:
    busy = replace(situation.seen, in_flight=work[0], waiting=work[1])
    planned = plan(situation.spec, busy, situation.now)
    assert planned.target is State.LOADED
    assert planned.next_transition is None or planned.reason is not Reason.DEMAND
    suspended = plan(situation.spec.model_copy(update={"suspend": True}), busy, situation.now)
    assert (suspended.target, suspended.steps) == (busy.resting_state, ())


@thorough
@given(situations)
def test_a_message_is_one_sentence(situation: Situation) -> None:
    message = situation.plan.message
    assert re.fullmatch(r"[A-Z][^.]*\.", message)
    assert "None" not in message
    assert "  " not in message


@thorough
@given(situations)
def test_periods_hold_their_start_and_not_their_end(situation: Situation) -> None:
    timetable, tick = Timetable(situation.spec.schedule), timedelta(microseconds=1)
    for one in situation.spec.schedule.exceptions:
        assert timetable.exception_at(one.start) == one
        assert timetable.exception_at(one.end - tick) == one
        assert timetable.exception_at(one.end) != one
        assert timetable.exception_at(one.start - tick) != one


# Cron by brute force: every minute of a few days around a zone's change is read off a clock on the wall.


@dataclass(frozen=True)
class WallCron:
    """A cron expression of minutes and hours, written and as the sets it means."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]

    def means(self, local: datetime) -> bool:
        return local.minute in self.minutes and local.hour in self.hours


ALL = [("*", frozenset(range(60))), ("*/20", frozenset({0, 20, 40}))]
FIXED = [(str(minute), frozenset({minute})) for minute in (0, 1, 15, 30, 45, 59)]
HOURS = [("*", frozenset(range(24))), ("0-3", frozenset(range(4))), ("22,23", frozenset({22, 23}))]
HOURS += [(str(hour), frozenset({hour})) for hour in (0, 1, 2, 3, 23)]


def wall_cron(chance: random.Random) -> WallCron:
    minute, hour = chance.choice(ALL + FIXED), chance.choice(HOURS)
    return WallCron(f"{minute[0]} {hour[0]} * * *", minute[1], hour[1])


def changes_of(zone: ZoneInfo, *, year: int) -> list[datetime]:
    """The instants of a year at which a zone's clock is changed."""

    def offset(at: datetime) -> timedelta | None:
        return at.astimezone(zone).utcoffset()

    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=count) for count in range(366)]
    minutes = [
        [low + count * MINUTE for count in range(1, 24 * 60 + 1)]
        for low, high in pairwise(days)
        if offset(low) != offset(high)
    ]
    return [next(at for at in day if offset(at) != offset(day[0] - MINUTE)) for day in minutes]


def fires_by_the_wall(cron: WallCron, zone: ZoneInfo, *, start: datetime, end: datetime) -> list[datetime]:
    """Watch the clock on the wall minute by minute: what it shows for the first time fires, and what it jumped over."""
    fires, at = list[datetime](), start
    shown = (start - MINUTE).astimezone(zone).replace(tzinfo=None)
    while at < end:
        local = at.astimezone(zone).replace(tzinfo=None)
        passed, shown_before = False, shown
        while shown_before < local:
            shown_before += MINUTE
            passed = passed or cron.means(shown_before)
        if passed:
            fires.append(at)
        shown, at = max(shown, local), at + MINUTE
    return fires


def all_zones() -> list[ZoneInfo]:
    """Each zone that tzdata has, under one of its names: the aliases are the same file."""
    names = files("tzdata").joinpath("zones").read_text().split()
    by_rules = {files("tzdata.zoneinfo").joinpath(*name.split("/")).read_bytes(): name for name in names}
    return [ZoneInfo(name) for name in by_rules.values()]


def a_change_of(zone: ZoneInfo, chance: random.Random) -> datetime:
    """A change of one of three years; for a zone without any, some instant."""
    years = chance.sample(range(2001, 2038), 3)
    changes = next((found for year in years if (found := changes_of(zone, year=year))), None)
    return chance.choice(changes) if changes else datetime(years[0], 6, 1, tzinfo=UTC)


def disagreement(cron: WallCron, zone: ZoneInfo, change: datetime) -> str | None:
    """Where the timetable and the clock on the wall differ, within two hours of a change."""
    entry = {"name": "it", "cron": cron.text, "state": "Loaded"}
    timetable = Timetable(spec_of(schedule={"timeZone": zone.key, "entries": [entry]}).schedule)
    expected = fires_by_the_wall(cron, zone, start=change - 28 * 60 * MINUTE, end=change + 28 * 60 * MINUTE)
    for at in (change + count * 13 * MINUTE for count in range(-9, 10, 2)):
        last, coming = timetable.last_fire(at), timetable.next_fire(at)
        found = last and last.at, coming and coming.at
        if found != (max(fire for fire in expected if fire <= at), min(fire for fire in expected if fire > at)):
            return f"{zone.key}: {cron.text!r} at {at}: {found}"
    return None


def test_fires_are_those_of_the_clock_on_the_wall_at_a_change_of_every_zone() -> None:
    chance = random.Random(20261123)
    found = [disagreement(wall_cron(chance), zone, a_change_of(zone, chance)) for zone in all_zones()]
    assert [words for words in found if words] == []
