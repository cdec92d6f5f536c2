"""The one decision function: what a WhisperModel should be now, why, what to do for it, and when that changes.

Pure. The operator, the server with a model file and the forecast all call `plan`, with what they observed and the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from whispermodel.planning.decision import MOST_CHANGES, Decision, Observed, decide, lead_time, thresholds
from whispermodel.planning.modes import ManualCommand, Orders, Reason
from whispermodel.planning.schedule import ScheduleError, timetable_of
from whispermodel.planning.sentences import message, summary
from whispermodel.spec import DemandPolicy, Mode, Schedule, Spec, State


class Step(StrEnum):
    """What to do now, for every pod that needs it."""

    SCALE_UP = "ScaleUp"
    LOAD = "Load"
    UNLOAD_WARM = "UnloadWarm"
    UNLOAD_COLD = "UnloadCold"
    SCALE_DOWN = "ScaleDown"


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of the target to come. reason, by: what brings it. summary: for a column, Unloaded Mon 20:00 -03."""

    time: datetime
    state: State
    reason: Reason
    by: str
    summary: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be, why, and what to do for it.

    steps: at most one; none while a transition is under way that leads to the target. next_transition: supposing that
    no more work comes. check_at: when to plan again though nothing happens. accepts: whether new work is taken;
    accepts_at: if not, when it will be. problem: why the schedule cannot be obeyed.
    """

    target: State
    reason: Reason
    message: str
    steps: tuple[Step, ...]
    next_transition: Transition | None
    check_at: datetime | None
    accepts: bool = True
    accepts_at: datetime | None = None
    problem: str | None = None


def plan(spec: Spec, observed: Observed, now: datetime) -> Plan:
    """Return what to do for a model at this instant; times carry an offset."""
    try:
        return _plan(_orders(spec, observed), observed, now)
    except ScheduleError as error:
        return _plan_without_schedule(spec, observed, now, problem=str(error))


def manual_left(spec: Spec, observed: Observed, now: datetime) -> ManualCommand | None:
    """Return the load or unload by hand to be remembered: a fire ends it, and a schedule that cannot fire does not."""
    try:
        return _orders(spec, observed).manual_left(now)
    except ScheduleError:
        return observed.manual


def _orders(spec: Spec, observed: Observed) -> Orders:
    return Orders(spec, timetable_of(spec.schedule), manual=observed.manual, spec_since=observed.spec_since)


def _plan_without_schedule(spec: Spec, observed: Observed, now: datetime, *, problem: str) -> Plan:
    """Keep the last good target as if it had been asked for, until the schedule is mended."""
    keeps = spec.desired_state is Mode.AUTO and observed.target is not None
    desired = Mode(observed.target) if keeps and observed.target else spec.desired_state
    kept = spec.model_copy(update={"schedule": Schedule(), "desired_state": desired})
    planned = _plan(_orders(kept, observed), observed, now)
    if keeps and planned.reason is Reason.DESIRED_STATE:
        planned = replace(planned, reason=Reason.SCHEDULE, message=f"{planned.target} as before: {problem}.")
    return replace(planned, problem=problem)


def _plan(orders: Orders, seen: Observed, now: datetime) -> Plan:
    decision = decide(orders, seen, now)
    transition = _next_transition(orders, seen, now, decision=decision)
    coming = (transition.state, transition.time) if transition else None
    refused = orders.spec.demand_policy is DemandPolicy.REFUSE and _is_down(orders, now)
    return Plan(
        target=decision.target,
        reason=decision.reason,
        message=message(decision, orders.timetable.zone, idle=orders.spec.idle, coming=coming),
        steps=tuple(_steps(decision, seen, now, warm_until=_warm_until(orders, seen, decision))),
        next_transition=transition,
        check_at=_check_at(orders, seen, now),
        accepts=not refused,
        accepts_at=_accepts_at(orders, now) if refused else None,
    )


def _steps(decision: Decision, seen: Observed, now: datetime, *, warm_until: datetime | None) -> Iterator[Step]:
    """Yield the one step that leads towards the target; a transition under way is waited for, unless it leads away."""
    if decision.reason is Reason.SUSPENDED:
        return
    target, lowest, highest = decision.target, seen.state, seen.highest or seen.state
    keeps_warm = warm_until is not None and now < warm_until
    if target is not State.ZERO and lowest is State.ZERO:
        yield Step.SCALE_UP
    elif target is State.LOADED:
        if lowest is State.UNLOADED or (lowest is State.FAILED and (seen.retry_at is None or now >= seen.retry_at)):
            yield Step.LOAD
    elif highest in (State.LOADING, State.LOADED):
        yield Step.UNLOAD_WARM if keeps_warm else Step.UNLOAD_COLD
    elif target is State.ZERO:
        if highest is not State.ZERO and State.UNLOADING not in (lowest, highest):
            yield Step.SCALE_DOWN
    elif highest in (State.UNLOADED, State.FAILED) and seen.warm and not keeps_warm:
        yield Step.UNLOAD_COLD


def _warm_until(orders: Orders, seen: Observed, decision: Decision) -> datetime | None:
    """Return how long the zygote outlives the model: as long again as unloadAfter if idleness alone unloaded it."""
    if decision.reason is not Reason.IDLE or decision.target is not State.UNLOADED or seen.idle_since is None:
        return None
    return seen.idle_since + 2 * orders.spec.idle.unload_after


def _next_transition(orders: Orders, seen: Observed, now: datetime, *, decision: Decision) -> Transition | None:
    """Return the first change of the target; none is known while work without an end in sight is all that decides."""
    if decision.reason is Reason.SUSPENDED or (decision.reason is Reason.DEMAND and decision.until is None):
        return None
    arrived = replace(seen, state=decision.target, highest=None, in_flight=0, waiting=0)
    at: datetime | None = now
    for _ in range(MOST_CHANGES):
        at = _next_candidate(orders, arrived, at, decision=decision)
        if at is None:
            return None
        then = decide(orders, arrived, at)
        if seen.demanded and then.reason in (Reason.DEMAND, Reason.IDLE):
            return None  # That depends on when the running work ends.
        if then.target is not decision.target:
            words = summary(then.target, at, orders.timetable.zone, since=decision.since)
            return Transition(at.astimezone(UTC), then.target, then.reason, then.by or then.reason.value.lower(), words)
    return None


def _next_candidate(orders: Orders, seen: Observed, after: datetime, *, decision: Decision) -> datetime | None:
    """Return the next instant at which the target may change; fires of a mode that is in force already do not."""
    passing_over = None if decision.reason is Reason.DEMAND else orders.in_force(after).mode
    lead = lead_time(orders, seen)
    change = orders.next_change(after, passing_over=passing_over)
    led = orders.next_change(after + lead, passing_over=passing_over) if lead else None
    times = [*thresholds(orders, seen), change, led - lead if led else None]
    return min((time for time in times if time is not None and time > after), default=None)


def _check_at(orders: Orders, seen: Observed, now: datetime) -> datetime | None:
    """Return the next instant at which anything of the plan may change, be it the words."""
    if orders.spec.suspend:
        return None
    lead = lead_time(orders, seen)
    led = orders.next_change(now + lead)
    times = [*thresholds(orders, seen), orders.next_change(now), led - lead if led else None, seen.retry_at]
    return min((time for time in times if time is not None and time > now), default=None)


def _is_down(orders: Orders, now: datetime) -> bool:
    return not orders.spec.suspend and orders.in_force(now).mode in (Mode.ZERO, Mode.UNLOADED)


def _accepts_at(orders: Orders, now: datetime) -> datetime | None:
    at: datetime | None = now
    for _ in range(MOST_CHANGES):
        at = orders.next_change(at, passing_over=orders.in_force(at).mode)
        if at is None or not _is_down(orders, at):
            return at
    return None
