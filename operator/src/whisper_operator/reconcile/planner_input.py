"""From an observation to what the planner needs to know."""

from __future__ import annotations

from datetime import datetime

from whisper_operator.reconcile.idle_time import idle_since, most_recent
from whisper_operator.reconcile.observation import Observation
from whisper_operator.reconcile.unresponsive_pods import effective_state
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Depth, State
from whispermodel.status import Status


def planner_input(observation: Observation, status: Status, *, spec_since: datetime | None = None) -> Observed:
    """Return the planner's input. status: the last one written. spec_since: since when the spec has been in effect.

    Pods that are leaving do not count: nobody sends them work any more.
    """
    states = [effective_state(view, observation) for view in observation.pods] or [State.ZERO]
    now, reports = observation.now, observation.reports
    return Observed(
        state=min(states, key=lambda state: state.rank),
        highest=max(states, key=lambda state: state.rank),
        warm=any(report.depth is Depth.WARM for report in reports),
        in_flight=sum(report.in_flight for report in reports),
        waiting=sum(report.queued for report in reports) + sum(end > now for end in observation.demand_ends),
        work_began=most_recent(now, [report.work_began_seconds for report in reports]),
        idle_since=idle_since(observation, status),
        unresponsive_since=observation.unresponsive_since,
        manual=_latest_manual(observation, status),
        target=status.target,
        spec_since=spec_since,
        start_seconds=status.recent_start_seconds,
        retry_at=observation.load_retry_at,
    )


def _latest_manual(observation: Observation, status: Status) -> ManualCommand | None:
    """Return the latest manual load or unload: of a pod, through a gateway, or from the status."""
    commands = [report.manual for report in observation.reports] + [lease.manual for lease in observation.leases]
    # A command with a future date, from a clock that is ahead, must not hide those already in effect.
    past = [one for one in (*commands, status.manual) if one and one.at <= observation.now]
    return max((ManualCommand(one.state, one.at) for one in past), key=lambda command: command.at, default=None)
