"""Which pods are free: each is lent to one job at a time, and one that failed is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from whisper_cluster.objects import Pod
from whisper_inference.fleet.fleet import Fleet
from whispermodel.key import Key


@dataclass(slots=True)
class PodPool:
    """Lends the pods that serve."""

    fleet: Fleet
    """Where the pods are."""
    clock: Callable[[], float] = time.monotonic
    """Seconds that never step back."""
    _lent: set[str] = field(default_factory=set[str])
    _blocked_until: dict[str, float] = field(default_factory=dict[str, float])

    def free(self, model: Key) -> Pod | None:
        """Return a pod that serves, is not lent and is not left alone; the one that was blocked longest ago first."""
        now = self.clock()
        usable = [pod for pod in self.fleet.serving(model) if pod.metadata.uid not in self._lent]
        ready = [pod for pod in usable if self._blocked_until.get(pod.metadata.uid, 0.0) <= now]
        return min(ready, key=lambda pod: self._blocked_until.get(pod.metadata.uid, 0.0), default=None)

    def next_free_in(self, model: Key) -> float | None:
        """Return after how many seconds the next pod is no longer left alone; None: none is."""
        serving = {pod.metadata.uid for pod in self.fleet.serving(model)} - self._lent
        ends = [until for uid, until in self._blocked_until.items() if uid in serving]
        return max(0.0, min(ends) - self.clock()) if ends else None

    @contextmanager
    def lent(self, model: Key, pod: Pod) -> Generator[None]:
        """Lend a pod; when it is given back, whoever waits for one is told."""
        uid = pod.metadata.uid
        self._lent.add(uid)
        try:
            yield
        finally:
            self._lent.discard(uid)
            self.fleet.note_change(model)

    def is_lent(self, uid: str) -> bool:
        """Return whether a pod is lent to a job."""
        return uid in self._lent

    def block(self, pod: Pod, *, seconds: float) -> None:
        """Leave a pod alone for a while."""
        staying = {one.metadata.uid for one in self.fleet.pods.all()}
        self._blocked_until = {uid: until for uid, until in self._blocked_until.items() if uid in staying}
        self._blocked_until[pod.metadata.uid] = self.clock() + seconds

    def unblock(self, pod: Pod) -> None:
        """Use a pod again: it worked."""
        self._blocked_until.pop(pod.metadata.uid, None)
