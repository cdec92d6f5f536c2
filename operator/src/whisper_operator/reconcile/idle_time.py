"""When a model's idle time began: at the end of the last work or demand, but not before the load that it waited for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from whisper_operator.reconcile.observation import Observation
from whispermodel.status import Status

_JITTER = timedelta(seconds=2)
"""Pods report ages, so a time computed from one varies by the duration of the request."""


def idle_since(observation: Observation, status: Status) -> datetime | None:
    """Return when the last work or demand ended; work that ended during a start ends with the load instead."""
    ended = _work_ended(observation, status)
    if ended is None or observation.last_start is None:
        return ended
    awaited_since, loaded_at = observation.last_start
    return loaded_at if awaited_since <= ended < loaded_at else ended


def most_recent(now: datetime, ages: Sequence[float | None]) -> datetime | None:
    """Return the time of the smallest of these ages in seconds; None if none is known."""
    known = [age for age in ages if age is not None]
    return now - timedelta(seconds=min(known)) if known else None


def _work_ended(observation: Observation, status: Status) -> datetime | None:
    """Return when the last work or demand ended; a time close to the one in the status is the same."""
    known = status.idle_since
    worked = [report.idle_seconds for report in observation.reports if report.work_began_seconds is not None]
    ends = (observation.demand_ended_at, most_recent(observation.now, worked))
    seen = max((end for end in ends if end), default=None)
    if seen is None or (known and seen - known < _JITTER):
        return known
    return seen.replace(microsecond=0)
