"""What the operator knows of one WhisperModel at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from whisper_cluster.leases import Lease
from whisper_cluster.objects import Deployment, Pod
from whisper_cluster.pods import Address, Memory
from whisper_operator.reconcile.failures import UNSCHEDULABLE, Failure, late_start_of, replica_failure_of
from whispermodel.states import State
from whispermodel.wire import ModelStatus


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod: what Kubernetes shows of it, and what its server answered."""

    pod: Pod
    """As the watch last showed it."""

    address: Address | None = None
    """Where its server listens; None: it does not serve yet."""

    report: ModelStatus | None = None
    """The server's answer to GET /model/status; None: it was not asked, or did not respond."""

    memory: Memory | None = None
    """What it holds; None: it was not asked, or its metrics could not be read."""

    failure: Failure | None = None
    """Why it cannot serve, or why its last load failed."""

    unresponsive: str | None = None
    """Why the server did not respond; None: it did, or was not asked."""

    call: State | None = None
    """What a call in progress brings: Loading, Unloading, or Unloaded while only the zygote ends; None: no call."""

    @property
    def state(self) -> State:
        """The pod's state; a pod that was never heard from is still starting."""
        if self.report is not None:
            return self.report.state
        return State.FAILED if self.failure else State.STARTING

    def ignoring_unschedulable(self) -> PodView:
        """Return the view without the failure that no node takes the pod."""
        return replace(self, failure=None) if self.failure and self.failure.reason == UNSCHEDULABLE else self

    def during(self, call: State | None) -> PodView:
        """Return the view with a call in progress: the server may not have received it yet."""
        if call is None or self.report is None:
            return self
        return replace(self, call=call, report=self.report.model_copy(update={"state": call}))


@dataclass(frozen=True, slots=True)
class Observation:
    """One WhisperModel's pods, Deployment and demand, with what earlier observations left behind."""

    now: datetime
    """When the pods had answered."""

    deployment: Deployment | None = None
    """The model's own Deployment."""

    pods: tuple[PodView, ...] = ()
    """The pods that are wanted and have not ended."""

    leaving: int = 0
    """How many pods are terminating, or about to: nobody sends them work any more."""

    drains_until: datetime | None = None
    """Until when terminating pods may hold what the next pod needs; None: no pod is terminating."""

    leases: tuple[Lease, ...] = ()
    """The demand Leases of gateways, expired ones included."""

    demand_ended_at: datetime | None = None
    """When the demand of the last Lease that expired or was deleted ended; None: none has."""

    refusal: Failure | None = None
    """What the API server refused: the Secret with the keys, or one of the model's objects."""

    ended: Failure | None = None
    """Why the latest pod ended, if that was recently and a pod is missing."""

    last_states: Mapping[str, State] = field(default_factory=dict[str, State])
    """The state of each pod when it last responded, by uid."""

    unresponsive_since: datetime | None = None
    """Since when a pod has not responded; None: all do."""

    blocked: State | None = None
    """What no call may bring now, Loading or Unloading: the last call for it failed, and its back-off runs."""

    load_retry_at: datetime | None = None
    """The end of the back-off after a failed load."""

    last_start: tuple[datetime, datetime] | None = None
    """Of a load that no status reports yet: since when it was awaited, and when it ended."""

    @property
    def reports(self) -> list[ModelStatus]:
        """The answers of the pods that responded."""
        return [view.report for view in self.pods if view.report]

    @property
    def demand_ends(self) -> list[datetime]:
        """When the demand of each Lease expires, or has expired."""
        return [end for lease in self.leases if (end := lease.expires_at())]

    @property
    def other_scaler(self) -> str | None:
        """The field manager other than the operator that sets the Deployment's replicas."""
        return self.deployment.other_scaler() if self.deployment else None

    @property
    def is_held_at_zero(self) -> bool:
        """Whether another scaler has set the Deployment to no pods, which the operator leaves alone."""
        return self.other_scaler is not None and self.deployment is not None and self.deployment.spec.replicas == 0

    @property
    def failure(self) -> Failure | None:
        """The first root cause: what keeps a pod from starting, or else a failure of a pod that runs."""
        return self.start_blocker or next((view.failure for view in self.pods if view.failure), None)

    @property
    def start_blocker(self) -> Failure | None:
        """What keeps a pod from starting; a pod that responds has started, whatever else failed."""
        pods = (view.failure for view in self.pods if view.report is None)
        causes = [self.refusal, *pods, replica_failure_of(self.deployment), self.ended]
        return next((cause for cause in causes if cause), None)

    @property
    def late_start(self) -> Failure | None:
        """The warning about a pod that takes long to start, but may still succeed."""
        return next((late for view in self.pods if (late := late_start_of(view.pod, self.now))), None)

    @property
    def memory(self) -> Memory | None:
        """The sum over the pods that responded; None: the memory of one of them is unknown."""
        known = [view.memory for view in self.pods if view.memory]
        return sum(known, Memory()) if known and len(known) == len(self.reports) else None
