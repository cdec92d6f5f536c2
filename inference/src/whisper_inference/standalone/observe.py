"""What the planner sees of one server: the lifecycle and the queue, in the planner's terms and times."""

from __future__ import annotations

from datetime import datetime, timedelta

from whisper_inference.lifecycle.machine import Lifecycle
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.standalone.record import Record
from whispermodel.planning.decision import Observed
from whispermodel.states import Depth, State


class ServerObserver:
    """Observes one server.

    at_zero: whether only the API process is meant to be there. A cold unloaded server looks the same either way; this
    one bit stands for the pod that a cluster would have. idle_since: when the last work ended.
    """

    def __init__(self, owner: LifecycleOwner, *, idle_since: datetime | None) -> None:
        self.at_zero = True
        self.idle_since = idle_since
        self._owner = owner
        self._work_began: datetime | None = None
        self._active_at = owner.lifecycle.active_at
        self._began_at = owner.lifecycle.began_at

    def observe(self, record: Record, *, queued: int, now: datetime) -> Observed:
        """Return the state at this instant. queued: jobs that wait in the store."""
        lifecycle = self._owner.lifecycle
        self._note_times(lifecycle, now)
        retry_after = self._owner.retry_after
        return Observed(
            state=self._state(lifecycle),
            warm=lifecycle.depth is Depth.WARM,
            in_flight=int(lifecycle.running is not None),
            # Jobs of gateways wait in the lifecycle only; the server's own have at most one ticket there.
            waiting=max(queued, len(lifecycle.queue)) + len(lifecycle.expected),
            work_began=self._work_began,
            idle_since=self.idle_since,
            manual=record.manual,
            target=record.status.target,
            spec_since=record.status.spec_since,
            start_seconds=record.status.recent_start_seconds,
            retry_at=now + timedelta(seconds=retry_after) if retry_after > 0 else None,
        )

    def _note_times(self, lifecycle: Lifecycle, now: datetime) -> None:
        """Convert times of the monotonic clock to calendar times, once each, so that they do not drift."""
        if lifecycle.active_at != self._active_at:
            self._active_at = lifecycle.active_at
            self.idle_since = now - timedelta(seconds=self._owner.idle_seconds)
        began_seconds = self._owner.work_began_seconds
        if lifecycle.began_at != self._began_at and began_seconds is not None:
            self._began_at = lifecycle.began_at
            self._work_began = now - timedelta(seconds=began_seconds)

    def _state(self, lifecycle: Lifecycle) -> State:
        if lifecycle.state in (State.LOADING, State.LOADED):
            self.at_zero = False
        ended = lifecycle.state in (State.UNLOADED, State.FAILED) and lifecycle.depth is Depth.COLD
        return State.ZERO if self.at_zero and ended else lifecycle.state
