"""What a resource would do in a period, and what that comes to: the planner in a world that obeys it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, plan
from whispermodel.planning.schedule import timetable_of
from whispermodel.spec import Spec, State

MOST_STEPS = 100_000
"""Instants that a forecast looks at: over two months of one a minute."""

Period = tuple[datetime, datetime]
"""[from, to), with offsets."""


class ForecastTooLong(Exception):
    """More happens in the period than a forecast looks at; the message says how far it came."""


@dataclass(frozen=True, slots=True)
class Happening:
    """A transition. at: when it begins, in UTC. message: why, in a whole sentence."""

    at: datetime
    before: State
    after: State
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What a period comes to.

    The seconds add up to the period's; a load that takes time counts as loaded, since the memory is held. cold_starts:
    periods of work that had to wait for a load. loads: all of them.
    """

    loaded_seconds: float = 0.0
    unloaded_seconds: float = 0.0
    zero_seconds: float = 0.0
    cold_starts: int = 0
    loads: int = 0


def forecast(
    spec: Spec, *, start: datetime, end: datetime, demand: Sequence[Period] = (), start_seconds: float = 0.0
) -> Forecast:
    """Return the transitions in [start, end), oldest first, to be iterated over once; then its totals are there.

    It begins where the rules alone have led a model that never had any work. demand: periods of work in any order; each
    goes on until its end, or until the load that it waits for. start_seconds: what a load takes.
    Raises ScheduleError; while it is iterated over, ForecastTooLong.
    """
    return Forecast(spec, start, end=end, demand=demand, start_seconds=start_seconds)


def totals(
    spec: Spec, *, start: datetime, end: datetime, demand: Sequence[Period] = (), start_seconds: float = 0.0
) -> Totals:
    """Return what the same period comes to as a whole. Raises ScheduleError, ForecastTooLong."""
    found = forecast(spec, start=start, end=end, demand=demand, start_seconds=start_seconds)
    for _ in found:
        pass
    return found.totals


def merged(periods: Sequence[Period]) -> list[Period]:
    """Return the periods in order and in UTC, without empty ones, and those that touch or overlap as one."""
    found: list[Period] = []
    # Times of one zone are compared by the clock on the wall, whatever lies between them.
    absolute = [(start.astimezone(UTC), end.astimezone(UTC)) for start, end in periods]
    for start, end in sorted(period for period in absolute if period[0] < period[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class Forecast:
    """One model, moved from instant to instant by what is planned for it. totals: of what was iterated over so far."""

    def __init__(
        self, spec: Spec, start: datetime, *, end: datetime, demand: Sequence[Period], start_seconds: float
    ) -> None:
        timetable_of(spec.schedule)
        self.totals = Totals()
        self._spec, self._now, self._end = spec, start.astimezone(UTC), end.astimezone(UTC)
        self._to_come = merged(demand)[::-1]
        self._load_time = timedelta(seconds=start_seconds)
        self._loaded_at: datetime | None = None
        self._work_ends: datetime | None = None
        self._seen = Observed(_resting_state(spec, self._now), start_seconds=(start_seconds,))

    def __iter__(self) -> Iterator[Happening]:
        if self._now >= self._end:
            return
        for _ in range(MOST_STEPS):
            self._finish()
            planned = self._plan()
            if planned.target is not self._seen.rung:
                yield Happening(self._now, self._seen.rung, planned.target, planned.reason, planned.message)
                self._obey(planned.target)
            if not self._move_on(planned):
                return
        raise ForecastTooLong(f"more than {MOST_STEPS} instants to look at: the forecast ends at {self._now}")

    def _finish(self) -> None:
        """See the load end that ends now, and then the work."""
        if self._loaded_at is not None and self._loaded_at <= self._now:
            self._loaded_at = None
            self._rest_at(State.LOADED)
        if self._work_ends is not None and self._work_ends <= self._now and self._loaded_at is None:
            self._work_ends = None
            self._seen = replace(self._seen, in_flight=0, waiting=0, idle_since=self._now)

    def _plan(self) -> Plan:
        """Return the plan, after work that waits was let in, if it is."""
        planned = plan(self._spec, self._seen, self._now)
        while self._to_come and self._to_come[-1][1] <= self._now:
            self._to_come.pop()
        waits = self._to_come and self._to_come[-1][0] <= self._now and self._work_ends is None
        if not waits or not planned.accepts:
            return planned
        self._work_ends = self._to_come.pop()[1]
        self._seen = replace(self._seen, waiting=1)
        planned = plan(self._spec, self._seen, self._now)
        self._count_cold_start(planned)
        if self._seen.state is State.LOADED:
            self._rest_at(State.LOADED)
        return planned

    def _count_cold_start(self, planned: Plan) -> None:
        loads = planned.target is State.LOADED and self._seen.state is not State.LOADED
        if loads and (planned.reason is Reason.DEMAND or self._load_time):
            self.totals = replace(self.totals, cold_starts=self.totals.cold_starts + 1)

    def _obey(self, target: State) -> None:
        self._loaded_at = None
        if target is not State.LOADED:
            self._rest_at(target)
            return
        self.totals = replace(self.totals, loads=self.totals.loads + 1)
        if self._load_time:
            self._loaded_at = self._now + self._load_time
            self._seen = replace(self._seen, state=State.LOADING)
        else:
            self._rest_at(State.LOADED)

    def _rest_at(self, state: State) -> None:
        """Arrive at a state; work that waited for the model begins to execute."""
        self._seen = replace(self._seen, state=state)
        if state is State.LOADED and self._seen.waiting:
            self._seen = replace(self._seen, waiting=0, in_flight=1, work_began=self._now)

    def _move_on(self, planned: Plan) -> bool:
        """Go to the next instant at which anything may change; tell whether it lies in the period."""
        edges = [planned.check_at, self._loaded_at, self._work_ends, self._to_come[-1][0] if self._to_come else None]
        following = min((edge for edge in edges if edge is not None and edge > self._now), default=self._end)
        self._spend(min(following, self._end) - self._now)
        self._now = following.astimezone(UTC)
        return self._now < self._end

    def _spend(self, time: timedelta) -> None:
        seconds, rung = time.total_seconds(), self._seen.rung
        if rung is State.LOADED:
            self.totals = replace(self.totals, loaded_seconds=self.totals.loaded_seconds + seconds)
        elif rung is State.UNLOADED:
            self.totals = replace(self.totals, unloaded_seconds=self.totals.unloaded_seconds + seconds)
        else:
            self.totals = replace(self.totals, zero_seconds=self.totals.zero_seconds + seconds)


def _resting_state(spec: Spec, now: datetime) -> State:
    """Return where a model without work is at an instant; a suspended one is where it would be otherwise."""
    return plan(spec.model_copy(update={"suspend": False}), Observed(State.ZERO), now).target
