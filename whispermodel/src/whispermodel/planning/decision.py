"""What a model should be at one instant, and why: modes, demand and idleness weighed against one another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from whispermodel.planning.modes import InForce, ManualCommand, Orders, Reason
from whispermodel.spec import Mode, State

UNKNOWN_COUNTS_AS_WORK = timedelta(minutes=5)
"""For so long activity that cannot be asked for is not idleness; then the pod's work is somebody else's."""
MOST_CHANGES = 64
"""Bound of every search through changes to come, for schedules whose fires change nothing."""

_RUNGS = {
    State.ZERO: State.ZERO,
    State.STARTING: State.UNLOADED,
    State.UNLOADING: State.UNLOADED,
    State.UNLOADED: State.UNLOADED,
    State.LOADING: State.LOADED,
    State.LOADED: State.LOADED,
}


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a model's pods, taken together.

    state, highest: the lowest and the highest among the wanted pods; highest None: as state. warm: the zygote of an
    unloaded model is still there. in_flight, waiting: work. work_began: when the work that runs, or ran last, started
    executing. idle_since: when the last work ended; None: there never was any. unknown_since: since when a pod does not
    tell. target: the last good one. spec_since: when this version of the spec was first obeyed. start_seconds: what the
    last starts and loads took. retry_at: end of the back-off after a failed load.
    """

    state: State
    highest: State | None = None
    warm: bool = False
    in_flight: int = 0
    waiting: int = 0
    work_began: datetime | None = None
    idle_since: datetime | None = None
    unknown_since: datetime | None = None
    manual: ManualCommand | None = None
    target: State | None = None
    spec_since: datetime | None = None
    start_seconds: tuple[float, ...] = ()
    retry_at: datetime | None = None

    @property
    def demanded(self) -> bool:
        """Whether work runs or waits."""
        return self.in_flight > 0 or self.waiting > 0

    @property
    def rung(self) -> State:
        """The resting state that was reached, or is being reached: Zero, Unloaded or Loaded."""
        return _RUNGS.get(self.highest or self.state) or self.target or State.UNLOADED


@dataclass(frozen=True, slots=True)
class Decision:
    """A target and why.

    by: what decided, in words. since, until: its period. ahead_of: the fire that a load comes before.
    """

    target: State
    reason: Reason
    by: str = ""
    since: datetime | None = None
    until: datetime | None = None
    ahead_of: datetime | None = None


def decide(orders: Orders, seen: Observed, now: datetime) -> Decision:
    """Return the target at this instant: demand wins upwards in every mode, unknown activity holds what is there."""
    if orders.spec.suspend:
        return Decision(seen.rung, Reason.SUSPENDED)
    decision = _without_demand(orders, seen, now)
    if seen.demanded and (decision.target is not State.LOADED or decision.reason is Reason.DEMAND):
        return Decision(State.LOADED, Reason.DEMAND)
    if decision.target.rank < seen.rung.rank and _is_unknown(seen, now):
        return Decision(seen.rung, Reason.DEMAND, "unknown activity", since=seen.unknown_since)
    return decision


def thresholds(orders: Orders, seen: Observed) -> list[datetime]:
    """Return the instants, in any order, at which idleness or ignorance has lasted long enough to change something."""
    found: list[datetime] = []
    idle = orders.spec.idle
    if seen.idle_since is not None:
        found += [seen.idle_since + idle.unload_after, seen.idle_since + 2 * idle.unload_after]
        found += [seen.idle_since + idle.scale_to_zero_after] if idle.scale_to_zero_after is not None else []
    if seen.unknown_since is not None:
        found.append(seen.unknown_since + UNKNOWN_COUNTS_AS_WORK)
    return found


def lead_time(orders: Orders, seen: Observed) -> timedelta:
    """Return how long before its fire a scheduled load begins; Auto: the longest of the last starts."""
    lead = orders.spec.schedule.lead_time
    return timedelta(seconds=max(seen.start_seconds, default=0.0)) if lead == "Auto" else lead


def _without_demand(orders: Orders, seen: Observed, now: datetime) -> Decision:
    in_force = orders.in_force(now)
    if in_force.mode is Mode.LOADED:
        return _as_ordered(in_force)
    lead = timedelta() if in_force.reason is Reason.OVERRIDE else lead_time(orders, seen)
    coming = _load_coming(orders, now, lead=lead, in_force=in_force)
    if coming is not None:
        return coming
    if in_force.mode is Mode.AUTO:
        return _by_idleness(orders, seen, now)
    return _held_by_work(orders, seen, now, since=in_force.since) or _as_ordered(in_force)


def _as_ordered(in_force: InForce) -> Decision:
    since = in_force.told_since or in_force.since
    return Decision(State(in_force.mode), in_force.reason, in_force.by, since=since, until=in_force.until)


def _load_coming(orders: Orders, now: datetime, *, lead: timedelta, in_force: InForce) -> Decision | None:
    """Return the load that is due by schedule within the lead time: a fire, or an exception's start or end."""
    at: datetime | None = now
    for _ in range(MOST_CHANGES if lead else 0):
        passing_over = None if in_force.mode is Mode.LOADED else in_force.mode
        at = orders.next_change(at, passing_over=passing_over)
        if at is None or at > now + lead:
            return None
        in_force = orders.in_force(at)
        if in_force.reason in (Reason.SCHEDULE, Reason.EXCEPTION) and in_force.mode is Mode.LOADED:
            return Decision(State.LOADED, in_force.reason, in_force.by, ahead_of=at)
    return None


def _by_idleness(orders: Orders, seen: Observed, now: datetime) -> Decision:
    """Return the rung that the idle times lead to; a load that is under way is not idle."""
    idle, since = orders.spec.idle, seen.idle_since
    if State.LOADING in (seen.state, seen.highest):
        return Decision(State.LOADED, Reason.DEMAND)
    if since is None:
        return Decision(State.UNLOADED if idle.scale_to_zero_after is None else State.ZERO, Reason.IDLE)
    if now < since + idle.unload_after:
        return Decision(State.LOADED, Reason.DEMAND, since=since, until=since + idle.unload_after)
    if idle.scale_to_zero_after is None or now < since + idle.scale_to_zero_after:
        return Decision(State.UNLOADED, Reason.IDLE, since=since)
    return Decision(State.ZERO, Reason.IDLE, since=since)


def _held_by_work(orders: Orders, seen: Observed, now: datetime, *, since: datetime | None) -> Decision | None:
    """Hold the model up after work that began under this order; work from before it went on only until its end."""
    if seen.work_began is None or seen.idle_since is None or (since is not None and seen.work_began < since):
        return None
    until = seen.idle_since + orders.spec.idle.unload_after
    return Decision(State.LOADED, Reason.DEMAND, since=seen.idle_since, until=until) if now < until else None


def _is_unknown(seen: Observed, now: datetime) -> bool:
    return seen.unknown_since is not None and now < seen.unknown_since + UNKNOWN_COUNTS_AS_WORK
