"""What the operator remembers of one model beyond its status; a restart may lose it without harm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_operator.reconcile.back_off import BackOff
from whisper_operator.reconcile.calls_in_progress import Outcome
from whisper_operator.reconcile.demand import DemandRecord
from whisper_operator.reconcile.receipts import Receipts
from whisper_operator.reconcile.status import FIGURES_EVERY
from whisper_operator.reconcile.unresponsive_pods import PodResponses
from whispermodel.states import State
from whispermodel.status import Status
from whispermodel.wire import LoadAnswer, UnloadAnswer


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
    """The delay after failed calls to its pods."""

    applied: AppliedVersions = field(default_factory=AppliedVersions)
    """The versions of its objects as applied last."""

    demand: DemandRecord = field(default_factory=DemandRecord)
    """Its Leases as seen last, and when their demand ended."""

    responses: PodResponses = field(default_factory=PodResponses)
    """What its pods last reported, and since when one is silent."""

    receipts: Receipts = field(default_factory=Receipts)
    """What no status reports yet."""

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
