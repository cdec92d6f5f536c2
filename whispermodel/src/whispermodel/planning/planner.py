"""What a WhisperModel should be now, why, what to do about it, and when that changes.

Pure. The operator, the server with a model file and the forecast all call `plan` with their observations and the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from whispermodel.planning.decision import Decision, Observed, decide, lead_time, thresholds
from whispermodel.planning.modes import InForce, ManualCommand, Orders, Reason
from whispermodel.planning.schedule import ScheduleError, timetable_of
from whispermodel.planning.sentences import local_after, message, summary
from whispermodel.spec import DemandPolicy, Schedule, Spec
from whispermodel.states import Mode, State


class Step(StrEnum):
    """What to do now, with every pod that needs it."""

    SCALE_UP = "ScaleUp"
    LOAD = "Load"
    UNLOAD_WARM = "UnloadWarm"
    UNLOAD_COLD = "UnloadCold"
    SCALE_DOWN = "ScaleDown"


@dataclass(frozen=True, slots=True)
class Transition:
    """A coming change of the target."""

    time: datetime
    """When, in UTC."""
    state: State
    """The target from then on."""
    reason: Reason
    """The kind of cause."""
    by: str
    """The cause, for people."""
    summary: str
    """The change, shortened for a table: Unloaded Mon 20:00 -03."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The target, why, and what to do about it."""

    target: State
    """What the model should be: Zero, Unloaded or Loaded."""
    reason: Reason
    """The kind of cause."""
    message: str
    """Why, since when and until when, in a sentence."""
    steps: tuple[Step, ...]
    """What to do now: at most one step, and none while a transition towards the target is in progress."""
    next_transition: Transition | None
    """The next change of the target, if no more requests arrive."""
    check_at: datetime | None
    """When to plan again even if nothing happens."""
    accepts: bool = True
    """Whether new requests are accepted."""
    accepts_at: datetime | None = None
    """If not, when they will be; None if no time is known."""
    accepts_at_local: str | None = None
    """That time as people in the schedule's time zone read it: Mon 07:00 -03."""
    problem: str | None = None
    """Why the schedule is invalid."""


def plan(spec: Spec, observed: Observed, now: datetime) -> Plan:
    """Return what a model should be at this instant, and what to do about it; times carry an offset."""
    try:
        return _plan(_orders(spec, observed), observed, now)
    except ScheduleError as error:
        return _plan_without_schedule(spec, observed, now, problem=str(error))


def manual_left(spec: Spec, observed: Observed, now: datetime) -> ManualCommand | None:
    """Return the manual command that still counts: a fire ends it, an invalid schedule does not."""
    try:
        return _orders(spec, observed).manual_left(now)
    except ScheduleError:
        return observed.manual


def _orders(spec: Spec, observed: Observed) -> Orders:
    return Orders(spec, timetable_of(spec.schedule), manual=observed.manual, spec_since=observed.spec_since)


def _plan_without_schedule(spec: Spec, observed: Observed, now: datetime, *, problem: str) -> Plan:
    """Keep the last target under a valid schedule, as if it were the desired state, until the schedule is fixed."""
    keeps = spec.desired_state is Mode.AUTO and observed.target is not None
    desired = Mode(observed.target) if keeps and observed.target else spec.desired_state
    kept = spec.model_copy(update={"schedule": Schedule(), "desired_state": desired})
    planned = _plan(_orders(kept, observed), observed, now)
    if keeps and planned.reason is Reason.DESIRED_STATE:
        planned = replace(planned, reason=Reason.SCHEDULE, message=f"Staying {planned.target}: {problem}.")
    return replace(planned, problem=problem)


def _plan(orders: Orders, seen: Observed, now: datetime) -> Plan:
    decision = decide(orders, seen, now)
    transition = _next_transition(orders, seen, now, decision=decision)
    coming = (transition.state, transition.time) if transition else None
    in_force = orders.in_force(now)
    refused = orders.spec.demand_policy is DemandPolicy.REFUSE and _is_down(orders, in_force)
    accepts_at = _accepts_at(orders, now) if refused else None
    return Plan(
        target=decision.target,
        reason=decision.reason,
        message=message(decision, orders.timetable.zone, idle=orders.spec.idle, coming=coming),
        steps=tuple(_steps(decision, seen, now, warm_until=_warm_until(orders, seen, decision))),
        next_transition=transition,
        check_at=_check_at(orders, seen, now),
        accepts=not refused,
        accepts_at=accepts_at,
        accepts_at_local=local_after(in_force.since, accepts_at, orders.timetable.zone) if accepts_at else None,
    )


def _steps(decision: Decision, seen: Observed, now: datetime, *, warm_until: datetime | None) -> Iterator[Step]:
    """Yield the one step towards the target; wait for a transition in progress unless it leads away from it."""
    if decision.holds:
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
    """Return until when the zygote is kept: for another unloadAfter if idleness alone unloaded the model."""
    if decision.reason is not Reason.IDLE or decision.target is not State.UNLOADED or seen.idle_since is None:
        return None
    return seen.idle_since + 2 * orders.spec.idle.unload_after


def _next_transition(orders: Orders, seen: Observed, now: datetime, *, decision: Decision) -> Transition | None:
    """Return the first change of the target; none is known while running requests alone decide."""
    if decision.reason is Reason.SUSPENDED or (decision.reason is Reason.DEMAND and decision.until is None):
        return None
    arrived = replace(seen, state=decision.target, highest=None, in_flight=0, waiting=0)
    # A fire of the mode in force changes nothing, except that it ends the stay after work from before it.
    renewals, marks = decision.reason is Reason.DEMAND, thresholds(orders, arrived)
    for at, _ in orders.timeline(now, lead=lead_time(orders, arrived), marks=marks, renewals=renewals):
        then = decide(orders, arrived, at)
        if seen.demanded and then.reason in (Reason.DEMAND, Reason.IDLE):
            return None  # That depends on when the running work ends.
        if then.target is not decision.target:
            message = summary(then.target, at, orders.timetable.zone, since=decision.since)
            return Transition(
                at.astimezone(UTC), then.target, then.reason, then.by or then.reason.value.lower(), message
            )
    return None


def _check_at(orders: Orders, seen: Observed, now: datetime) -> datetime | None:
    """Return the next instant at which anything in the plan may change, even if only its message."""
    if orders.spec.suspend:
        return None
    lead = lead_time(orders, seen)
    led = orders.next_change(now + lead)
    times = [*thresholds(orders, seen), orders.next_change(now), led - lead if led else None, seen.retry_at]
    return min((time for time in times if time is not None and time > now), default=None)


def _is_down(orders: Orders, in_force: InForce) -> bool:
    return not orders.spec.suspend and in_force.mode in (Mode.ZERO, Mode.UNLOADED)


def _accepts_at(orders: Orders, now: datetime) -> datetime | None:
    return next((at for at, in_force in orders.timeline(now) if not _is_down(orders, in_force)), None)
