"""The loads, unloads and failed calls of one model that its status does not report yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from whisper_operator.reconcile.status import Unreported
from whispermodel import wire
from whispermodel.status import LastFailure, LastLoad, LastUnload, Status
from whispermodel.status_writes import shortened, whole

_MIB = 2**20
_MOST_PHASES = 32
"""As many as the schema allows in a status."""
_SAME_RECEIPT = timedelta(seconds=10)
"""Pods report ages, and a request takes time: a receipt no later than this after the known one is the known one."""


@dataclass(frozen=True, slots=True)
class AwaitedStart:
    """A pod or a load that somebody is waiting for. trigger: the planner's reason for it."""

    since: datetime
    trigger: str


@dataclass(slots=True)
class Receipts:
    """What happened to one model since its last status: recorded when it is observed, taken when it is reported."""

    unreported: Unreported = field(default_factory=Unreported)
    """The latest load, unload and failure that no status holds yet."""

    awaited_start: AwaitedStart | None = None
    """The start that is being waited for; how long it takes counts towards leadTime."""

    called_at: datetime | None = None
    """When pods were called, until a status reports it."""

    written_at: datetime | None = None
    """When the last status was written."""

    @property
    def last_start(self) -> tuple[datetime, datetime] | None:
        """Since when the unreported load was awaited, and when it ended; None: there is none."""
        load, took = self.unreported.load, self.unreported.start_seconds
        return None if load is None or took is None else (load.time - timedelta(seconds=took), load.time)

    def is_called_since(self, time: datetime) -> bool:
        """Return whether pods were called after this time, and no status reports it yet."""
        return self.called_at is not None and self.called_at > time

    def await_start(self, now: datetime, trigger: str) -> None:
        """Start waiting for the model, unless somebody is waiting already."""
        self.awaited_start = self.awaited_start or AwaitedStart(now, trigger)

    def cancel_start(self) -> None:
        """Stop waiting: the model is not wanted any more, or cannot start."""
        self.awaited_start = None

    def record_load(self, loaded: wire.LoadAnswer, now: datetime) -> None:
        """Record a load that the operator requested."""
        start = self.awaited_start or AwaitedStart(now, "Demand")
        self.awaited_start = None
        if loaded.load_seconds:
            self._add_load(loaded, now, start)

    def record_unload(self, unloaded: wire.UnloadAnswer, now: datetime) -> None:
        """Record an unload that the operator requested, unless it is pending or there was no model to unload."""
        if not unloaded.pending and unloaded.device_was:
            self.unreported = replace(self.unreported, unload=_last_unload(unloaded, now))

    def record_failure(self, reason: str, message: str, *, is_repeated: bool, status: Status, now: datetime) -> None:
        """Record a call that failed. is_repeated: the call before it failed as well."""
        before = self.unreported.failure or status.last_failure
        count = before.count + 1 if before and before.reason == reason and is_repeated else 1
        failure = LastFailure(reason=reason, message=shortened(message), time=whole(now), count=count)
        self.unreported = replace(self.unreported, failure=failure)

    def record_reports(self, reports: Iterable[wire.ModelStatus], status: Status, now: datetime) -> None:
        """Record loads and unloads that the operator did not request, or no longer waited for."""
        for report in reports:
            load, unload = report.last_load, report.last_unload
            if load and load.load_seconds:
                at = now - timedelta(seconds=load.seconds_ago)
                if _is_later(at, self.unreported.load or status.last_load):
                    self._record_load_by_others(load, at)
            if unload:
                at = now - timedelta(seconds=unload.seconds_ago)
                if _is_later(at, self.unreported.unload or status.last_unload):
                    self.unreported = replace(self.unreported, unload=_last_unload(unload, at))

    def mark_written(self, now: datetime) -> None:
        """Forget what the status just written holds."""
        self.written_at, self.unreported = now, Unreported()

    def _record_load_by_others(self, load: wire.LastLoad, at: datetime) -> None:
        start = AwaitedStart(at, load.trigger.capitalize())
        if self.awaited_start and self.awaited_start.since <= at:
            # The model was awaited, and a request to the pod was faster than the operator's call.
            start, self.awaited_start = self.awaited_start, None
        self._add_load(load, at, start)

    def _add_load(self, loaded: wire.LoadAnswer | wire.LastLoad, at: datetime, start: AwaitedStart) -> None:
        seconds = loaded.load_seconds or 0.0
        phases = dict(list(loaded.phases.items())[:_MOST_PHASES])
        load = LastLoad(time=whole(at), seconds=seconds, phases=phases, trigger=start.trigger)
        took = max((at - start.since).total_seconds(), seconds)
        self.unreported = replace(self.unreported, load=load, start_seconds=round(took, 3))


def _is_later(at: datetime, known: LastLoad | LastUnload | None) -> bool:
    return known is None or at - known.time > _SAME_RECEIPT


def _last_unload(unloaded: wire.UnloadAnswer | wire.LastUnload, now: datetime) -> LastUnload:
    freed = unloaded.memory_freed
    return LastUnload(
        time=whole(now),
        seconds=unloaded.unload_seconds or 0.0,
        freed_resident_bytes=round(freed.ram_mb * _MIB) if freed else 0,
        freed_gpu_bytes=round(freed.vram_mb * _MIB) if freed else 0,
        fully_released=bool(unloaded.fully_released),
    )
