"""What the operator remembers of a model beyond its status; a restart may lose it without harm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_cluster.pods import Loaded, LoadReceipt, Unloaded
from whisper_operator.reconcile.observe import PodView
from whisper_operator.reconcile.pod_calls import Outcome
from whisper_operator.reconcile.status import Unreported, shortened, whole
from whispermodel.spec import State
from whispermodel.status import LastFailure, LastLoad, LastUnload, Status

_RETRY_FIRST = timedelta(seconds=2)
_RETRY_MOST = timedelta(minutes=5)
_MIB = 2**20
_MOST_PHASES = 32
"""As many as the schema lets a status hold."""
_SAME_RECEIPT = timedelta(seconds=10)
"""Pods tell an age, and an answer takes its time: a receipt that is later by no more is the one that is known."""


@dataclass(slots=True)
class ModelMemory:
    """One model's.

    last_states: of each pod, when it last spoke. unknown_since: since when one has been silent. applied: digest of the
    Deployment applied last, and the generation that it had then. versions: of the other objects, by kind, as applied.
    called_at: when pods were called, if that is to be reported yet. awaited_start: since when a pod or a load has been
    awaited, and why. circumstances: the generation, and the pods' uids. failures, failed, retry_at: of calls in a row,
    what they should have brought, and the end of the back-off after them. unreported: what no status holds yet.
    refused: what the API server refused at the last look. written_at: when the last one was written. scraped_at: when
    all pods were asked for their memory.
    """

    last_states: dict[str, State] = field(default_factory=dict[str, State])
    unknown_since: datetime | None = None
    applied: tuple[str, int] | None = None
    versions: dict[str, str] = field(default_factory=dict[str, str])
    called_at: datetime | None = None
    awaited_start: tuple[datetime, str] | None = None
    circumstances: tuple[int, frozenset[str]] | None = None
    failures: int = 0
    failed: State | None = None
    retry_at: datetime | None = None
    unreported: Unreported = field(default_factory=Unreported)
    refused: str | None = None
    written_at: datetime | None = None
    scraped_at: datetime | None = None

    def record_views(self, views: Sequence[PodView], now: datetime, *, scraped: bool) -> None:
        """Remember what each pod said, and since when one has said nothing."""
        spoken = {view.pod.metadata.uid: view.report.state for view in views if view.report}
        # A container that has ended took its model with it.
        uids = {view.pod.metadata.uid for view in views if view.report or not view.failure}
        self.last_states = {uid: state for uid, state in self.last_states.items() if uid in uids} | spoken
        silent = any(view.unresponsive for view in views)
        self.unknown_since = (self.unknown_since or now) if silent else None
        self.scraped_at = now if scraped else self.scraped_at

    def reset_if_changed(self, generation: int, pods: Iterable[str]) -> None:
        """End the back-off of calls when the spec or the pods are others: what made them fail may be gone."""
        now = generation, frozenset(pods)
        if self.circumstances != now:
            self.circumstances = now
            self._end_back_off()

    def _end_back_off(self) -> None:
        self.failures, self.failed, self.retry_at = 0, None, None

    def blocked(self, now: datetime) -> State | None:
        """Return what no call may bring now, Loading or Unloading, because the last one failed just before."""
        return self.failed if self.retry_at is not None and now < self.retry_at else None

    def record_awaited_start(self, now: datetime, reason: str) -> None:
        """Remember since when somebody has waited for the model."""
        self.awaited_start = self.awaited_start or (now, reason)

    def idle_from(self, ended: datetime | None) -> datetime | None:
        """Return since when the model is idle whose work ended then: not while the load that it called for went on."""
        load, took = self.unreported.load, self.unreported.start_seconds
        if ended is None or load is None or took is None:
            return ended
        return load.time if load.time - timedelta(seconds=took) <= ended < load.time else ended

    def record_outcomes(self, outcomes: Iterable[Outcome], status: Status, now: datetime) -> None:
        """Add to what is unreported what calls to the pods came to; the last of each kind counts."""
        for outcome in outcomes:
            match outcome.result:
                case Loaded() as loaded:
                    self._record_load(loaded, now)
                case Unloaded() as unloaded:
                    self._record_unload(unloaded, now)
                case PodRefused(code="superseded"):
                    # A load that somebody gave up for an unload.
                    pass
                case PodRefused() | PodUnreachable() as error:
                    transition = State.LOADING if outcome.transition is State.LOADING else State.UNLOADING
                    self._record_failure(transition, error, status, now)

    def _record_load(self, loaded: Loaded, now: datetime) -> None:
        since, reason = self.awaited_start or (now, "Demand")
        self.awaited_start = None
        self._end_back_off()
        if loaded.load_seconds:
            self._add_load(loaded, now, since=since, trigger=reason)

    def record_receipts(self, views: Iterable[PodView], status: Status, now: datetime) -> None:
        """Add the loads and unloads that came without our calls: by a request, by hand, or after we gave up waiting."""
        for report in (view.report for view in views if view.report):
            load, unload = report.last_load, report.last_unload
            if load and load.load_seconds:
                at = now - timedelta(seconds=load.seconds_ago)
                if _is_later(at, self.unreported.load or status.last_load):
                    self._record_load_by_others(load, at)
            if unload and unload.device_was:
                at = now - timedelta(seconds=unload.seconds_ago)
                if _is_later(at, self.unreported.unload or status.last_unload):
                    self.unreported = replace(self.unreported, unload=_last_unload(unload, at))

    def _record_load_by_others(self, load: LoadReceipt, at: datetime) -> None:
        since, reason = at, load.trigger.capitalize()
        if self.awaited_start and self.awaited_start[0] <= at:
            # Somebody waited for it, and a request to the pod was faster than our call.
            (since, reason), self.awaited_start = self.awaited_start, None
        self._add_load(load, at, since=since, trigger=reason)

    def _add_load(self, loaded: Loaded, at: datetime, *, since: datetime, trigger: str) -> None:
        phases = dict(list(loaded.phases.items())[:_MOST_PHASES])
        load = LastLoad(time=whole(at), seconds=loaded.load_seconds, phases=phases, trigger=trigger)
        took = max((at - since).total_seconds(), loaded.load_seconds)
        self.unreported = replace(self.unreported, load=load, start_seconds=round(took, 3))

    def _record_unload(self, unloaded: Unloaded, now: datetime) -> None:
        self._end_back_off()
        if not unloaded.pending and unloaded.device_was:
            self.unreported = replace(self.unreported, unload=_last_unload(unloaded, now))

    def _record_failure(
        self, transition: State, error: PodRefused | PodUnreachable, status: Status, now: datetime
    ) -> None:
        reason = "LoadFailed" if transition is State.LOADING else "UnloadRefused"
        reason = "Unreachable" if isinstance(error, PodUnreachable) else reason
        self.failures = self.failures + 1 if transition is self.failed else 1
        self.failed = transition
        self.retry_at = now + min(_RETRY_FIRST * 2 ** min(self.failures - 1, 16), _RETRY_MOST)
        before = self.unreported.failure or status.last_failure
        count = before.count + 1 if before and before.reason == reason and self.failures > 1 else 1
        failure = LastFailure(reason=reason, message=shortened(str(error)), time=whole(now), count=count)
        self.unreported = replace(self.unreported, failure=failure)


def _is_later(at: datetime, known: LastLoad | LastUnload | None) -> bool:
    return known is None or at - known.time > _SAME_RECEIPT


def _last_unload(unloaded: Unloaded, now: datetime) -> LastUnload:
    freed = unloaded.memory_freed
    return LastUnload(
        time=whole(now),
        seconds=unloaded.unload_seconds,
        freed_resident_bytes=round(freed.ram_mb * _MIB) if freed else 0,
        freed_gpu_bytes=round(freed.vram_mb * _MIB) if freed else 0,
        fully_released=bool(unloaded.fully_released),
    )
