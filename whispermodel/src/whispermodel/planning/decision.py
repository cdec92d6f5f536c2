"""What a model should be at one instant, and why: modes, demand and idleness weighed against each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from whispermodel.planning.modes import InForce, ManualCommand, Orders, Reason
from whispermodel.states import Mode, State

UNRESPONSIVE_COUNTS_AS_WORK = timedelta(minutes=5)
"""How long a pod that does not respond is assumed busy; afterwards the plan continues without it."""

_RESTING_STATES = {
    State.ZERO: State.ZERO,
    State.STARTING: State.UNLOADED,
    State.UNLOADING: State.UNLOADED,
    State.UNLOADED: State.UNLOADED,
    State.LOADING: State.LOADED,
    State.LOADED: State.LOADED,
}


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a model's pods, taken together."""

    state: State
    """The lowest state among the wanted pods."""
    highest: State | None = None
    """The highest state among them; None: the same as `state`."""
    warm: bool = False
    """Whether the zygote of an unloaded model still runs."""
    in_flight: int = 0
    """How many requests are running."""
    waiting: int = 0
    """How many requests are waiting."""
    work_began: datetime | None = None
    """When the work that is running, or ran last, started executing."""
    idle_since: datetime | None = None
    """When the last work ended; None: there has not been any."""
    unresponsive_since: datetime | None = None
    """Since when a pod has not responded."""
    manual: ManualCommand | None = None
    """The last manual load or unload."""
    target: State | None = None
    """The last target under a valid schedule."""
    spec_since: datetime | None = None
    """When this version of the spec was first applied."""
    start_seconds: tuple[float, ...] = ()
    """How long the last starts and loads took."""
    retry_at: datetime | None = None
    """When the back-off after a failed load ends."""

    @property
    def demanded(self) -> bool:
        """Whether requests are running or waiting."""
        return self.in_flight > 0 or self.waiting > 0

    @property
    def resting_state(self) -> State:
        """The resting state that the model has reached or is moving to: Zero, Unloaded or Loaded."""
        return _RESTING_STATES.get(self.highest or self.state) or self.target or State.UNLOADED


@dataclass(frozen=True, slots=True)
class Decision:
    """A target, and why."""

    target: State
    """Zero, Unloaded or Loaded."""
    reason: Reason
    """The kind of cause."""
    by: str = ""
    """The cause in words, where it has a name."""
    since: datetime | None = None
    """Since when the cause applies."""
    until: datetime | None = None
    """When it ends by itself."""
    ahead_of: datetime | None = None
    """The scheduled change that a load is started ahead of."""
    holds: bool = False
    """Whether the pods are left as they are, without any step."""


def decide(orders: Orders, seen: Observed, now: datetime) -> Decision:
    """Return the target now: demand loads the model in every mode, and a pod that may be busy is left as it is."""
    if orders.spec.suspend:
        return Decision(seen.resting_state, Reason.SUSPENDED, holds=True)
    decision = _without_demand(orders, seen, now)
    if seen.demanded and (decision.target is not State.LOADED or decision.reason is Reason.DEMAND):
        return Decision(State.LOADED, Reason.DEMAND)
    if decision.target.rank < seen.resting_state.rank and _may_be_working(seen, now):
        return Decision(
            seen.resting_state, Reason.DEMAND, "unknown activity", since=seen.unresponsive_since, holds=True
        )
    return decision


def thresholds(orders: Orders, seen: Observed) -> list[datetime]:
    """Return when idleness or silence will have lasted long enough to change the target, in any order."""
    found: list[datetime] = []
    idle = orders.spec.idle
    if seen.idle_since is not None:
        found += [seen.idle_since + idle.unload_after, seen.idle_since + 2 * idle.unload_after]
        found += [seen.idle_since + idle.scale_to_zero_after] if idle.scale_to_zero_after is not None else []
    if seen.unresponsive_since is not None:
        found.append(seen.unresponsive_since + UNRESPONSIVE_COUNTS_AS_WORK)
    return found


def lead_time(orders: Orders, seen: Observed) -> timedelta:
    """Return how long before its fire a scheduled load starts; with Auto, as long as the longest of the last starts."""
    lead = orders.spec.schedule.lead_time
    return timedelta(seconds=max(seen.start_seconds, default=0.0)) if lead == "Auto" else lead


def _without_demand(orders: Orders, seen: Observed, now: datetime) -> Decision:
    in_force = orders.in_force(now)
    if in_force.mode is Mode.LOADED:
        return _as_ordered(in_force)
    lead = timedelta() if in_force.reason is Reason.OVERRIDE else lead_time(orders, seen)
    coming = _load_coming(orders, now, lead=lead)
    if coming is not None:
        return coming
    if in_force.mode is Mode.AUTO:
        return _by_idleness(orders, seen, now)
    return _held_by_work(orders, seen, now, since=in_force.since) or _as_ordered(in_force)


def _as_ordered(in_force: InForce) -> Decision:
    since = in_force.first_since or in_force.since
    return Decision(State(in_force.mode), in_force.reason, in_force.by, since=since, until=in_force.until)


def _load_coming(orders: Orders, now: datetime, *, lead: timedelta) -> Decision | None:
    """Return the scheduled load that starts within the lead time: by a fire, or at an exception's start or end."""
    for at, in_force in orders.timeline(now) if lead else ():
        if at > now + lead:
            return None
        if in_force.reason in (Reason.SCHEDULE, Reason.EXCEPTION) and in_force.mode is Mode.LOADED:
            return Decision(State.LOADED, in_force.reason, in_force.by, ahead_of=at)
    return None


def _by_idleness(orders: Orders, seen: Observed, now: datetime) -> Decision:
    """Return the resting state that the idle times lead to; a load in progress is not idle."""
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
    """Keep the model loaded after work that began under this order; earlier work only delayed the order."""
    if seen.work_began is None or seen.idle_since is None or (since is not None and seen.work_began < since):
        return None
    until = seen.idle_since + orders.spec.idle.unload_after
    return Decision(State.LOADED, Reason.DEMAND, since=seen.idle_since, until=until) if now < until else None


def _may_be_working(seen: Observed, now: datetime) -> bool:
    return seen.unresponsive_since is not None and now < seen.unresponsive_since + UNRESPONSIVE_COUNTS_AS_WORK
