"""Rules for every writer of a status: shorten, round, and write only what is worth a write."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import JsonValue

from whispermodel.planning.planner import Transition
from whispermodel.states import State
from whispermodel.status import Memory, NextTransition, Status

_MAX_CHARACTERS = 4096
"""Longest message: a server or an admission policy may send more than anybody reads, or a status can hold."""
_MAX_STARTS = 5
_MIB = 2**20
_FIGURES = {"memory", "idle_since", "next_transition", "message"}
"""Fields that move while nothing happens."""


def shortened(message: str) -> str:
    """Return as much of a message as a status holds."""
    return message if len(message) <= _MAX_CHARACTERS else f"{message[: _MAX_CHARACTERS - 3]}..."


def whole(time: datetime) -> datetime:
    """Return a time as statuses hold it, in whole seconds."""
    return time.replace(microsecond=0)


def state_since(before: Status, state: State, now: datetime) -> datetime:
    """Return since when a model is in a state that is observed now."""
    return before.since if before.state is state and before.since else whole(now)


def recent_starts(before: Status, seconds: float | None) -> tuple[float, ...]:
    """Return how long the last starts took, after another one. seconds: None if there was none."""
    known = before.recent_start_seconds
    return known if seconds is None else (seconds, *known)[:_MAX_STARTS]


def next_transition(coming: Transition | None) -> NextTransition | None:
    """Return a planned transition as statuses hold it."""
    if coming is None:
        return None
    return NextTransition(time=whole(coming.time), state=coming.state, by=coming.by, summary=coming.summary)


def memory(*, resident: int, gpu: int, gpu_reserved: int, at: datetime) -> Memory:
    """Return measured bytes as statuses hold them."""
    return Memory(
        summary=f"{round(resident / _MIB)}Mi",
        resident_bytes=resident,
        gpu_bytes=gpu,
        gpu_reserved_bytes=gpu_reserved,
        observed_at=whole(at),
    )


def is_write_due(
    before: Status, after: Status, *, written_at: datetime | None, now: datetime, figures_every: timedelta
) -> bool:
    """Return whether to write: at once if something happened, and once in a while if figures moved.

    before: the status written last. figures_every: how often figures are written at most.
    """
    if before == after:
        return False
    if _without_figures(before) != _without_figures(after):
        return True
    if before.next_transition is None and after.next_transition is not None:
        # Work has ended, and people want to know when the model is unloaded. That it began needs no write of its own:
        # a change of state tells of the load.
        return True
    return written_at is None or now - written_at >= figures_every


def _without_figures(status: Status) -> Status:
    """Leave out figures, and messages of failures and conditions: some of them count something."""
    failure, conditions = status.last_failure, status.conditions
    settled = {
        "last_failure": failure and failure.model_copy(update={"message": "", "time": None}),
        "conditions": tuple(condition.model_copy(update={"message": ""}) for condition in conditions),
    }
    return status.model_copy(update={**dict.fromkeys(_FIGURES), **settled})


def as_json(status: Status) -> dict[str, JsonValue]:
    """Return the status as it is applied: without what is unknown."""
    return status.model_dump(mode="json", exclude_none=True)
