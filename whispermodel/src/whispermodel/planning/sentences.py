"""Decisions in whole sentences that a person can act on.

A sentence depends on what was decided and on what comes next, never on the time at which it is read: it must not change
while nothing changes.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from whispermodel.durations import format_duration
from whispermodel.planning.decision import UNRESPONSIVE_COUNTS_AS_WORK, Decision
from whispermodel.planning.modes import Reason
from whispermodel.spec import Idle
from whispermodel.states import State

_VERBS = {State.LOADED: "loads", State.UNLOADED: "unloads", State.ZERO: "scales to zero"}
_UNAMBIGUOUS = timedelta(days=6)
"""Within this time a weekday without a date can mean one day only."""


def local(at: datetime, zone: tzinfo, *, dated: bool) -> str:
    """Return a time as people in the zone read it: Mon 07:00 CET, or Mon 2026-11-30 07:00 CET."""
    return at.astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z" if dated else "%a %H:%M %Z")


def local_after(since: datetime | None, at: datetime, zone: tzinfo) -> str:
    """Return a time as people in the zone read it between `since` and that time: with its date if they lie far apart.

    since: None if unknown.
    """
    return local(at, zone, dated=_far_apart(since, at))


def summary(target: State, at: datetime, zone: tzinfo, *, since: datetime | None) -> str:
    """Return what comes next in a few words: Unloaded Mon 20:00 -03."""
    return f"{target} {local_after(since, at, zone)}"


def message(decision: Decision, zone: tzinfo, *, idle: Idle, coming: tuple[State, datetime] | None) -> str:
    """Return what was decided, why and since when, and what comes next."""
    dated = coming is None or _far_apart(decision.since, coming[1])
    return f"{_now(decision, zone, idle=idle, dated=dated)}{_then(decision, zone, coming=coming, dated=dated)}."


def _far_apart(since: datetime | None, at: datetime) -> bool:
    """Return whether a weekday alone would be ambiguous to somebody who reads it between the two instants."""
    return since is None or at - since > _UNAMBIGUOUS


def _now(decision: Decision, zone: tzinfo, *, idle: Idle, dated: bool) -> str:
    target, since = decision.target, decision.since
    when = f" {local(since, zone, dated=dated)}" if since else ""
    match decision.reason:
        case Reason.SUSPENDED:
            return "Suspended: the plan changes nothing until spec.suspend is false"
        case Reason.DEMAND if decision.by:
            busy = format_duration(UNRESPONSIVE_COUNTS_AS_WORK)
            return f"Staying {target}: a pod has not responded since{when}; it is assumed busy for up to {busy}"
        case Reason.DEMAND if since:
            return f"Loaded: last request ended{when}"
        case Reason.DEMAND:
            stay = format_duration(idle.unload_after)
            return f"Loaded: requests are running or waiting; stays loaded for {stay} afterwards"
        case Reason.IDLE if since:
            return f"{target}: idle since{when}"
        case Reason.IDLE:
            return f"{target} until a request arrives"
        case _ if decision.ahead_of:
            return f"Loaded early for {decision.by}, which starts {local(decision.ahead_of, zone, dated=True)}"
        case Reason.MANUAL:
            return f"{target} manually" + (f" since{when}" if since else "")
        case _:
            return f"{target} by {decision.by}" + (f" since{when}" if since else "")


def _then(decision: Decision, zone: tzinfo, *, coming: tuple[State, datetime] | None, dated: bool) -> str:
    if coming is None:
        return f"; in effect until {local(decision.until, zone, dated=True)}" if decision.until else ""
    state, at = coming
    verb = "starts its pod" if (decision.target, state) == (State.ZERO, State.UNLOADED) else _VERBS[state]
    return f"; {verb} {local(at, zone, dated=dated)}"
