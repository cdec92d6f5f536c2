"""The back-off after failed calls to a model's pods: 2 s, doubled by each failure, at most 5 minutes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from whispermodel.states import State

_RETRY_FIRST = timedelta(seconds=2)
_RETRY_MOST = timedelta(minutes=5)


@dataclass(slots=True)
class BackOff:
    """The back-off after failed calls to a model's pods. Changed when the model is observed."""

    failed: State | None = None
    """What the failed calls were to bring: Loading or Unloading."""

    failures: int = 0
    """How many such calls have failed in a row."""

    retry_at: datetime | None = None
    """When the back-off ends; None: no call has failed since the last success."""

    circumstances: tuple[int, frozenset[str]] | None = None
    """The generation of the spec and the uids of the pods at the last observation."""

    @property
    def load_retry_at(self) -> datetime | None:
        """The end of the back-off after failed loads."""
        return self.retry_at if self.failed is State.LOADING else None

    def blocked(self, now: datetime) -> State | None:
        """Return what no call may bring now, Loading or Unloading; None: any call may be made."""
        return self.failed if self.retry_at is not None and now < self.retry_at else None

    def reset_if_changed(self, generation: int, pods: Iterable[str]) -> None:
        """End the back-off if the spec or the pods have changed: the cause of the failures may be gone."""
        now = generation, frozenset(pods)
        if self.circumstances != now:
            self.circumstances = now
            self.end()

    def end(self) -> None:
        """End the back-off, as after a success."""
        self.failures, self.failed, self.retry_at = 0, None, None

    def extend(self, failed: State, now: datetime) -> None:
        """Record a failed call, and wait twice as long as after the one before it."""
        self.failures = self.failures + 1 if failed is self.failed else 1
        self.failed = failed
        self.retry_at = now + min(_RETRY_FIRST * 2 ** min(self.failures - 1, 16), _RETRY_MOST)
