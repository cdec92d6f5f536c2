"""From an observation to what the planner needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from whisper_operator.reconcile.observation import Observation, PodView
from whispermodel.planning.decision import UNRESPONSIVE_COUNTS_AS_WORK, Observed
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Depth, State
from whispermodel.status import Status

_JITTER = timedelta(seconds=2)
"""Pods report ages, so a time computed from one varies by the duration of the request."""


def planner_input(observation: Observation, status: Status, *, spec_since: datetime | None = None) -> Observed:
    """Return the planner's input. status: the last one written. spec_since: since when the spec has been in effect.

    Pods that are leaving do not count: nobody sends them work any more.
    """
    states = [_state_of(view, observation) for view in observation.pods] or [State.ZERO]
    reports = observation.reports
    return Observed(
        state=min(states, key=lambda state: state.rank),
        highest=max(states, key=lambda state: state.rank),
        warm=any(report.depth is Depth.WARM for report in reports),
        in_flight=sum(report.in_flight for report in reports),
        waiting=sum(report.queued for report in reports) + _unexpired_demands(observation),
        work_began=_latest(observation.now, [report.work_began_seconds for report in reports]),
        idle_since=_idle_since(observation, status),
        unresponsive_since=observation.unresponsive_since,
        manual=_latest_manual(observation, status),
        target=status.target,
        spec_since=spec_since,
        start_seconds=status.recent_start_seconds,
        retry_at=observation.load_retry_at,
    )


def _state_of(view: PodView, observation: Observation) -> State:
    """Return the state of a pod; an unresponsive one keeps its last state until the planner gives up on it."""
    if not view.unresponsive:
        return view.state
    since = observation.unresponsive_since
    if since is not None and observation.now >= since + UNRESPONSIVE_COUNTS_AS_WORK:
        return State.FAILED
    return observation.last_states.get(view.pod.metadata.uid, view.state)


def _unexpired_demands(observation: Observation) -> int:
    return sum(1 for end in _demand_ends(observation) if end > observation.now)


def _demand_ends(observation: Observation) -> list[datetime]:
    return [end for lease in observation.leases if (end := lease.expires_at())]


def _idle_since(observation: Observation, status: Status) -> datetime | None:
    """Return when the last work or demand ended; work that ended during a start ends with the load instead."""
    ended = _work_ended(observation, status)
    if ended is None or observation.last_start is None:
        return ended
    awaited_since, loaded_at = observation.last_start
    return loaded_at if awaited_since <= ended < loaded_at else ended


def _work_ended(observation: Observation, status: Status) -> datetime | None:
    """Return when the last work or demand ended; a time close to the one in the status is the same."""
    known = status.idle_since
    worked = [report.idle_seconds for report in observation.reports if report.work_began_seconds is not None]
    ends = [end for end in _demand_ends(observation) if end <= observation.now]
    latest = _latest(observation.now, worked)
    seen: datetime | None = max([*ends, latest] if latest else ends, default=None)
    if seen is None or (known and seen - known < _JITTER):
        return known
    return seen.replace(microsecond=0)


def _latest(now: datetime, ages: Sequence[float | None]) -> datetime | None:
    known = [age for age in ages if age is not None]
    return now - timedelta(seconds=min(known)) if known else None


def _latest_manual(observation: Observation, status: Status) -> ManualCommand | None:
    """Return the latest manual load or unload: of a pod, through a gateway, or from the status."""
    commands = [report.manual for report in observation.reports] + [lease.manual for lease in observation.leases]
    # A command with a future date, from a clock that is ahead, must not hide those already in effect.
    past = [one for one in (*commands, status.manual) if one and one.at <= observation.now]
    return max((ManualCommand(one.state, one.at) for one in past), key=lambda command: command.at, default=None)
