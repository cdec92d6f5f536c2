"""What the operator remembers of one model beyond its status; a restart may lose it without harm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_operator.reconcile.calls_in_progress import Outcome
from whisper_operator.reconcile.receipts import Receipts
from whisper_operator.reconcile.status import FIGURES_EVERY
from whisper_operator.reconcile.unresponsive_pods import PodResponses
from whispermodel.states import State
from whispermodel.status import Status
from whispermodel.wire import LoadAnswer, UnloadAnswer

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


@dataclass(slots=True)
class AppliedVersions:
    """The versions of a model's objects as the operator applied them last. Changed when its objects are applied."""

    deployment: tuple[str, int] | None = None
    """The digest of the Deployment as sent, and its generation after that."""

    others: dict[str, str] = field(default_factory=dict[str, str])
    """The resourceVersion of the Service and of the NetworkPolicy, by kind."""

    refused: str | None = None
    """The refusal that was logged last; None: nothing is refused."""


@dataclass(slots=True)
class ReconcileMemory:
    """Everything remembered of one model between its reconciliations, by concern."""

    back_off: BackOff = field(default_factory=BackOff)
    applied: AppliedVersions = field(default_factory=AppliedVersions)
    responses: PodResponses = field(default_factory=PodResponses)
    receipts: Receipts = field(default_factory=Receipts)

    memory_read_at: datetime | None = None
    """When all pods were last asked for the memory that they hold."""

    def is_memory_due(self, now: datetime) -> bool:
        """Return whether the pods should be asked for their memory again."""
        return self.memory_read_at is None or now - self.memory_read_at >= FIGURES_EVERY

    def record_outcomes(self, outcomes: Iterable[Outcome], status: Status, now: datetime) -> None:
        """Record what calls to the pods led to; the last one of each kind counts."""
        for outcome in outcomes:
            match outcome.result:
                case LoadAnswer() as loaded:
                    self.back_off.end()
                    self.receipts.record_load(loaded, now)
                case UnloadAnswer() as unloaded:
                    self.back_off.end()
                    self.receipts.record_unload(unloaded, now)
                case PodRefused(code="superseded"):
                    # A load that was cancelled for an unload.
                    pass
                case PodRefused() | PodUnreachable() as error:
                    self._record_failure(outcome, error, status, now)

    def _record_failure(
        self, outcome: Outcome, error: PodRefused | PodUnreachable, status: Status, now: datetime
    ) -> None:
        failed = State.LOADING if outcome.transition is State.LOADING else State.UNLOADING
        refused = "LoadFailed" if failed is State.LOADING else "UnloadRefused"
        reason = "Unreachable" if isinstance(error, PodUnreachable) else refused
        self.back_off.extend(failed, now)
        is_repeated = self.back_off.failures > 1
        self.receipts.record_failure(reason, str(error), is_repeated=is_repeated, status=status, now=now)
