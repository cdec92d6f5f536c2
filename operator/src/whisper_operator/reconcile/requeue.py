"""When to reconcile a WhisperModel again, if no event comes first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from whisper_operator.reconcile.failures import ENDED_LATELY, START_LIMIT
from whisper_operator.reconcile.observation import Observation
from whispermodel.planning.planner import Plan
from whispermodel.states import State

POLL = timedelta(seconds=15)
"""How often to ask pods for their status: clients send them work without telling the operator."""
POLL_MOVING = timedelta(seconds=1)
"""The same while a pod changes its state by itself or does not respond: no event marks the end of that.

And while there is demand and the model is not loaded: the holder of the Lease sends work to pods, which load for it.
"""
AFTER_REFUSAL = timedelta(minutes=1)
"""How often to send an object again that was refused: what it refers to may exist by then."""
_MOVING = (State.LOADING, State.UNLOADING)


def next_check(planned: Plan, observation: Observation, state: State) -> datetime | None:
    """Return when to reconcile again; None: only when something changes."""
    return min(_times(planned, observation, state), default=None)


def _times(planned: Plan, observation: Observation, state: State) -> Iterator[datetime]:
    now = observation.now
    if planned.check_at:
        yield planned.check_at
    ends = [lease.expires_at() for lease in observation.leases]
    manual = [lease.manual.at for lease in observation.leases if lease.manual]
    yield from (time for time in (*ends, *manual, observation.drains_until) if time and time > now)
    if observation.refusal:
        yield now + AFTER_REFUSAL
    if observation.ended:
        yield now + ENDED_LATELY
    starts = (since + START_LIMIT for view in observation.pods if (since := view.pod.awaits_its_start_since))
    yield from (late for late in starts if late > now)
    if any(view.address for view in observation.pods):
        yield now + (POLL_MOVING if _is_moving(observation, state) else POLL)


def _is_moving(observation: Observation, state: State) -> bool:
    is_awaited = state is not State.LOADED and any(end > observation.now for end in observation.demand_ends)
    return is_awaited or state in _MOVING or any(view.unresponsive for view in observation.pods)
