"""What a WhisperModel would do in a period: the planner, with a simulated model that follows each plan at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, plan
from whispermodel.planning.schedule import timetable_of
from whispermodel.spec import Spec
from whispermodel.states import State

MAX_STEPS = 100_000
"""How many instants a forecast plans at: more than two months with one a minute."""

Period = tuple[datetime, datetime]
"""[from, to), both with offsets."""


class ForecastTooLong(Exception):
    """More happens in the period than a forecast can cover; the message says how far it came."""


@dataclass(frozen=True, slots=True)
class ForecastTransition:
    """A transition of the forecast model."""

    at: datetime
    """When it begins, in UTC."""
    before: State
    """The resting state that it leaves."""
    after: State
    """The resting state that it leads to."""
    reason: Reason
    """The kind of cause."""
    message: str
    """Why, in a sentence."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of a period; the seconds add up to its length."""

    loaded_seconds: float = 0.0
    """Time with the model in memory, loads included, since they hold memory too."""
    unloaded_seconds: float = 0.0
    """Time with a pod and without a model."""
    zero_seconds: float = 0.0
    """Time without a pod."""
    cold_starts: int = 0
    """How many periods of work had to wait for a load."""
    loads: int = 0
    """How many loads there were."""


def forecast(
    spec: Spec, *, start: datetime, end: datetime, demand: Sequence[Period] = (), start_seconds: float = 0.0
) -> Forecast:
    """Return the transitions in [start, end), oldest first; iterate over them once, then read the totals.

    It begins in the resting state of a model that has never had any work. demand: periods of work in any order; each
    lasts until its end, or until the load that it waits for. start_seconds: how long a load takes.
    Raises ScheduleError; during the iteration, ForecastTooLong.
    """
    return Forecast(spec, start, end=end, demand=demand, start_seconds=start_seconds)


def totals(
    spec: Spec, *, start: datetime, end: datetime, demand: Sequence[Period] = (), start_seconds: float = 0.0
) -> Totals:
    """Return the totals of the same forecast. Raises ScheduleError, ForecastTooLong."""
    found = forecast(spec, start=start, end=end, demand=demand, start_seconds=start_seconds)
    for _ in found:
        pass
    return found.totals


def merged(periods: Sequence[Period]) -> list[Period]:
    """Return the periods sorted and in UTC, without empty ones; those that touch or overlap are merged."""
    found: list[Period] = []
    # Python compares two times of one zone by their local time, even across a clock change.
    absolute = [(start.astimezone(UTC), end.astimezone(UTC)) for start, end in periods]
    for start, end in sorted(period for period in absolute if period[0] < period[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class Forecast:
    """One model that follows its plans from instant to instant. totals: of the transitions iterated over so far."""

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

    def __iter__(self) -> Iterator[ForecastTransition]:
        if self._now >= self._end:
            return
        for _ in range(MAX_STEPS):
            self._finish()
            planned = self._plan()
            if planned.target is not self._seen.resting_state:
                yield ForecastTransition(
                    self._now, self._seen.resting_state, planned.target, planned.reason, planned.message
                )
                self._follow(planned.target)
            if not self._move_on(planned):
                return
        raise ForecastTooLong(f"more than {MAX_STEPS} instants to plan at: the forecast ends at {self._now}")

    def _finish(self) -> None:
        """End the load that is complete by now, and then the work."""
        if self._loaded_at is not None and self._loaded_at <= self._now:
            self._loaded_at = None
            self._rest_at(State.LOADED)
        if self._work_ends is not None and self._work_ends <= self._now and self._loaded_at is None:
            self._work_ends = None
            self._seen = replace(self._seen, in_flight=0, waiting=0, idle_since=self._now)

    def _plan(self) -> Plan:
        """Return the plan, after admitting waiting work if the model accepts it."""
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

    def _follow(self, target: State) -> None:
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
        """Reach a resting state; work that waited for the model starts executing."""
        self._seen = replace(self._seen, state=state)
        if state is State.LOADED and self._seen.waiting:
            self._seen = replace(self._seen, waiting=0, in_flight=1, work_began=self._now)

    def _move_on(self, planned: Plan) -> bool:
        """Go to the next instant at which anything may change; return whether it lies in the period."""
        edges = [planned.check_at, self._loaded_at, self._work_ends, self._to_come[-1][0] if self._to_come else None]
        following = min((edge for edge in edges if edge is not None and edge > self._now), default=self._end)
        self._spend(min(following, self._end) - self._now)
        self._now = following.astimezone(UTC)
        return self._now < self._end

    def _spend(self, time: timedelta) -> None:
        seconds, state = time.total_seconds(), self._seen.resting_state
        if state is State.LOADED:
            self.totals = replace(self.totals, loaded_seconds=self.totals.loaded_seconds + seconds)
        elif state is State.UNLOADED:
            self.totals = replace(self.totals, unloaded_seconds=self.totals.unloaded_seconds + seconds)
        else:
            self.totals = replace(self.totals, zero_seconds=self.totals.zero_seconds + seconds)


def _resting_state(spec: Spec, now: datetime) -> State:
    """Return the resting state of a model without work; suspension does not change it."""
    return plan(spec.model_copy(update={"suspend": False}), Observed(State.ZERO), now).target
