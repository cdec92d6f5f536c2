"""Kubernetes Events: emitted once for each change, after the status that contains it has been written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

import structlog

from whisper_cluster.api import EVENTS, Cluster
from whisper_cluster.errors import ClusterError
from whisper_cluster.names import OPERATOR
from whisper_operator.resources.identity import Identity
from whispermodel.conditions import ConditionType
from whispermodel.durations import LONGEST, format_duration
from whispermodel.planning.modes import Reason
from whispermodel.spec import API_VERSION, KIND
from whispermodel.states import State
from whispermodel.status import LastFailure, LastUnload, Status

log = structlog.stdlib.get_logger(__name__)

MISSED_AFTER = timedelta(minutes=1)
"""A scheduled transition that starts later than this was missed: no operator was running."""
_MOST_NOTE = 1024
"""The maximum length of an Event's note in events.k8s.io/v1, in bytes."""
_MIB = 2**20


class EventReason(StrEnum):
    """The reasons of Events. An Event marks a transition."""

    LOADING = "Loading"
    LOADED = "Loaded"
    UNLOADING = "Unloading"
    UNLOADED = "Unloaded"
    SCALED_TO_ZERO = "ScaledToZero"
    WAKING = "Waking"
    LOAD_FAILED = "LoadFailed"
    POD_FAILED = "PodFailed"
    SCHEDULE_MISSED = "ScheduleMissed"
    MEMORY_NOT_RELEASED = "MemoryNotReleased"
    SCALER_CONFLICT = "ScalerConflict"


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """An Event to emit. type: Warning if somebody should take a look."""

    reason: EventReason
    note: str
    type: Literal["Normal", "Warning"] = "Normal"


def events_between(before: Status, after: Status, *, lag: timedelta | None) -> Iterator[ModelEvent]:
    """Yield the events between two statuses. lag: by how much a scheduled change was late."""
    if before.state is not after.state and after.state is not None:
        yield from _of_state(before, after)
    if after.last_failure is not None and before.last_failure != after.last_failure:
        yield _failure(after.last_failure)
    if after.last_unload and before.last_unload != after.last_unload and not after.last_unload.fully_released:
        yield ModelEvent(EventReason.MEMORY_NOT_RELEASED, "The unload did not release all memory.", "Warning")
    conflict, earlier = (status.condition(ConditionType.SCALER_CONFLICT) for status in (after, before))
    if conflict and conflict.status == "True" and not (earlier and earlier.status == "True"):
        yield ModelEvent(EventReason.SCALER_CONFLICT, conflict.message, "Warning")
    if lag is not None and lag > MISSED_AFTER:
        late = format_duration(min(lag - timedelta(microseconds=lag.microseconds), LONGEST))
        yield ModelEvent(EventReason.SCHEDULE_MISSED, f"{after.message} The change started {late} late.", "Warning")


def lag_of_schedule(before: Status, after: Status, at: datetime) -> timedelta | None:
    """Return by how much a scheduled change of the target was late, if it started then; None: there was none."""
    due = before.next_transition
    if due is None or before.target is after.target or after.reason not in (Reason.SCHEDULE, Reason.EXCEPTION):
        return None
    return max(timedelta(), at - due.time) if due.time <= at else None


def _of_state(before: Status, after: Status) -> Iterator[ModelEvent]:
    if after.state is State.ZERO and before.state is None:
        return
    reason = _REASONS.get(after.state) if after.state else None
    if reason is not None:
        yield ModelEvent(reason, _note_of(reason, before, after))


_REASONS = {
    State.STARTING: EventReason.WAKING,
    State.LOADING: EventReason.LOADING,
    State.LOADED: EventReason.LOADED,
    State.UNLOADING: EventReason.UNLOADING,
    State.UNLOADED: EventReason.UNLOADED,
    State.ZERO: EventReason.SCALED_TO_ZERO,
}


def _note_of(reason: EventReason, before: Status, after: Status) -> str:
    """Return the status message, after the figures of a load or unload if there is a receipt of it."""
    if reason is EventReason.LOADED and after.last_load and after.last_load != before.last_load:
        return f"Loaded in {after.last_load.seconds:.2f} s. {after.message}"
    if reason is EventReason.UNLOADED and after.last_unload and after.last_unload != before.last_unload:
        return f"{_freed(after.last_unload)} {after.message}"
    return after.message


def _freed(unload: LastUnload) -> str:
    gpu = f" and {round(unload.freed_gpu_bytes / _MIB)} MiB of GPU memory" if unload.freed_gpu_bytes else ""
    return f"Freed {round(unload.freed_resident_bytes / _MIB)} MiB of memory{gpu}."


def _failure(failure: LastFailure) -> ModelEvent:
    reason = EventReason.LOAD_FAILED if failure.reason == "LoadFailed" else EventReason.POD_FAILED
    return ModelEvent(reason, f"{failure.reason}: {failure.message}", "Warning")


class Recorder:
    """Writes Events. instance: this replica's name."""

    def __init__(self, cluster: Cluster, *, instance: str) -> None:
        self._cluster = cluster
        self._instance = instance

    async def emit(self, about: Identity, event: ModelEvent, now: datetime) -> None:
        """Write one Event. An Event that cannot be written is only logged: nothing depends on it."""
        try:
            await self._cluster.create(EVENTS, self._event(about, event, now))
        except ClusterError as error:
            log.warning("event.not_written", whispermodel=f"{about.namespace}/{about.name}", reason=str(error))

    def _event(self, about: Identity, event: ModelEvent, now: datetime) -> dict[str, object]:
        regarding = {"apiVersion": API_VERSION, "kind": KIND, "namespace": about.namespace}
        return {
            "metadata": {"name": f"{about.name}.{uuid.uuid4().hex[:16]}", "namespace": about.namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": f"audio-transcriber.io/{OPERATOR}",
            "reportingInstance": self._instance,
            "action": event.reason.value,
            "reason": event.reason.value,
            "type": event.type,
            "regarding": {**regarding, "name": about.name, "uid": about.uid},
            "note": event.note.encode()[:_MOST_NOTE].decode(errors="ignore"),
        }
