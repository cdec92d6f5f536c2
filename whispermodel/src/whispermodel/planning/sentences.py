"""Decisions in whole sentences that a person can act on.

A sentence depends on what was decided and on what comes next, never on the time at which it is read: it must not change
while nothing changes.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from whispermodel.durations import format_duration
from whispermodel.planning.decision import Decision
from whispermodel.planning.modes import Reason
from whispermodel.spec import Idle, State

_VERBS = {State.LOADED: "loads", State.UNLOADED: "unloads", State.ZERO: "goes to zero"}
_WEEK = timedelta(days=6)
"""Within it a weekday alone is unmistakable."""


def local(at: datetime, zone: tzinfo, *, dated: bool) -> str:
    """Return a time as people of the zone read it: Mon 07:00 -03, or with its date."""
    return at.astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z" if dated else "%a %H:%M %Z")


def summary(target: State, at: datetime, zone: tzinfo, *, since: datetime | None) -> str:
    """Return what comes next in a few words: Unloaded Mon 20:00 -03."""
    return f"{target} {local(at, zone, dated=_far_apart(since, at))}"


def message(decision: Decision, zone: tzinfo, *, idle: Idle, coming: tuple[State, datetime] | None) -> str:
    """Return what was decided, by what and since when, and what comes next."""
    dated = coming is None or _far_apart(decision.since, coming[1])
    return f"{_now(decision, zone, idle=idle, dated=dated)}{_then(decision, zone, coming=coming, dated=dated)}."


def _far_apart(since: datetime | None, at: datetime) -> bool:
    """Whether a weekday would leave open which week is meant; who reads stands somewhere between the two."""
    return since is None or at - since > _WEEK


def _now(decision: Decision, zone: tzinfo, *, idle: Idle, dated: bool) -> str:
    target, since = decision.target, decision.since
    when = f" {local(since, zone, dated=dated)}" if since else ""
    match decision.reason:
        case Reason.SUSPENDED:
            return "Suspended: nothing is started, loaded or unloaded until suspend is taken out of the spec"
        case Reason.DEMAND if decision.by:
            return f"{target} as before: a pod has not told since{when} whether it works, which counts as work for 5m"
        case Reason.DEMAND if since:
            return f"Loaded for work that ended{when}"
        case Reason.DEMAND:
            return f"Loaded for work that runs or waits; stays for {format_duration(idle.unload_after)} after it"
        case Reason.IDLE if since:
            return f"{target} without work since{when}"
        case Reason.IDLE:
            return f"{target} until work arrives"
        case _ if decision.ahead_of:
            return f"Loaded ahead of {decision.by}, which holds from {local(decision.ahead_of, zone, dated=True)}"
        case _:
            return f"{target} by {decision.by}" + (f" since{when}" if since else "")


def _then(decision: Decision, zone: tzinfo, *, coming: tuple[State, datetime] | None, dated: bool) -> str:
    if coming is None:
        return f"; holds until {local(decision.until, zone, dated=True)}" if decision.until else ""
    state, at = coming
    verb = "starts its pod" if (decision.target, state) == (State.ZERO, State.UNLOADED) else _VERBS[state]
    return f"; {verb} {local(at, zone, dated=dated)}"
