"""Reconcile one WhisperModel: observe, plan, act, report. The status is written once, and last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import JsonValue, ValidationError

from whisper_cluster.api import Cluster
from whisper_cluster.cache import Store, key_of
from whisper_cluster.objects import WhisperModelObject
from whisper_cluster.pods import PodClient
from whisper_operator.reconcile.calls_in_progress import PodAction, PodCall, PodCalls
from whisper_operator.reconcile.children import Children, Desired
from whisper_operator.reconcile.demand import LatestLeases
from whisper_operator.reconcile.events import Recorder
from whisper_operator.reconcile.memory import ReconcileMemory
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.reconcile.observe import Observer
from whisper_operator.reconcile.parsed_model import ParsedModel
from whisper_operator.reconcile.planner_input import planner_input
from whisper_operator.reconcile.pod_keys import PodKeys
from whisper_operator.reconcile.receipts import Receipts
from whisper_operator.reconcile.report import Reporter, status_inputs
from whisper_operator.reconcile.requeue import next_check
from whisper_operator.reconcile.status import StatusInputs
from whisper_operator.reconcile.wanted_actions import leads_down, resulting_state, wanted_calls, wanted_replicas
from whisper_operator.resources.deployment import Defaults
from whispermodel.key import Key
from whispermodel.planning.planner import Plan, plan
from whispermodel.states import State


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Everything that reconciling needs."""

    store: Store
    """The objects that the watches have shown."""

    cluster: Cluster
    """The API server."""

    pods: PodClient
    """The servers in the pods."""

    pod_calls: PodCalls
    """The loads and unloads in progress."""

    pod_keys: PodKeys
    """The keys to the pods."""

    recorder: Recorder
    """Writes Events."""

    model_metrics: ModelMetrics
    """The metrics that name a model."""

    defaults: Defaults
    """What pods get where the spec says nothing."""

    allow_from: Sequence[dict[str, JsonValue]] | None
    """The NetworkPolicyPeers that may reach pods; None: everybody."""

    clock: Callable[[], datetime]
    """The current time, in UTC."""


class Reconciler:
    """Reconciles models by key, never the same one twice at once.

    memories: what is remembered of each model between its reconciliations.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        store, cluster, clock = dependencies.store, dependencies.cluster, dependencies.clock
        pod_calls, model_metrics = dependencies.pod_calls, dependencies.model_metrics
        self._store, self._clock = store, clock
        self._pod_calls, self._model_metrics = pod_calls, model_metrics
        self._observer = Observer(store, dependencies.pods, pod_calls, dependencies.pod_keys, clock)
        self._latest_leases = LatestLeases(cluster, store)
        self._children = Children(cluster, store, dependencies.defaults, dependencies.allow_from)
        self._reporter = Reporter(cluster, store, dependencies.recorder, model_metrics)
        self.memories: dict[Key, ReconcileMemory] = {}

    async def reconcile(self, key: Key) -> datetime | None:
        """Bring one WhisperModel towards its target; return when to reconcile it again. Raises ClusterError."""
        resource = self._store.models.get(key)
        if resource is None or resource.metadata.deletion_timestamp is not None:
            return self.forget(key)
        memory = self.memories.setdefault(key, ReconcileMemory())
        try:
            model = ParsedModel.of(resource)
        except ValidationError as error:
            await self._reporter.report_invalid_spec(resource, error, self._clock())
            return self._clock() if self._is_outdated(resource) else None
        inputs = await self._converge(model, memory)
        if inputs is None:
            return self._clock()
        await self._reporter.report(model, inputs, memory.receipts)
        if self._is_outdated(resource):
            return self._clock()
        return next_check(inputs.plan, inputs.observation, inputs.state)

    def forget(self, key: Key) -> None:
        """Drop everything about a model that is gone; the garbage collector deletes what it owned."""
        self.memories.pop(key, None)
        self._pod_calls.forget(key)
        self._model_metrics.forget(key)

    async def _converge(self, model: ParsedModel, memory: ReconcileMemory) -> StatusInputs | None:
        """Observe, plan and act; return what to report, or None to reconcile again at once.

        That is when pods were called, which comes before any write, and when there is demand that changes the plan.
        """
        observation = await self._observer.observe(model, memory)
        now, receipts = observation.now, memory.receipts
        observed = planner_input(observation, model.status, spec_since=model.spec_since(now))
        planned = plan(model.spec, observed, now)
        calls = tuple(wanted_calls(planned, observation))
        replicas = wanted_replicas(model.spec, planned, observation, state=observed.state)
        if leads_down(calls, replicas, observation) and await self._latest_leases.are_news(model.key):
            return None
        self._start_calls(model.key, calls, planned=planned, now=now, receipts=receipts)
        if calls and receipts.called_at is None:
            # Two hundred models may change in the same minute: call the pods of all of them before writing anything.
            receipts.called_at = now
            return None
        applied = await self._children.apply(Desired(model, observation, observed, planned, replicas), memory)
        observation = replace(observation, refusal=applied.refusal or observation.refusal)
        state = resulting_state(observed.state, planned, observation, started=calls)
        if planned.target is not State.LOADED or state in (State.FAILED, State.ZERO):
            # Nobody is waiting for this start, so do not let it count towards leadTime.
            receipts.cancel_start()
        return status_inputs(
            model,
            observation,
            observed=observed,
            planned=planned,
            state=state,
            replicas=applied.replicas,
            unreported=receipts.unreported,
        )

    def _start_calls(
        self, key: Key, calls: Sequence[PodCall], *, planned: Plan, now: datetime, receipts: Receipts
    ) -> None:
        for call in calls:
            if call.action is PodAction.LOAD:
                receipts.await_start(now, planned.reason)
            self._pod_calls.start(key, call)

    def _is_outdated(self, resource: WhisperModelObject) -> bool:
        """Return whether the spec has changed meanwhile: the answer to our own write may hide the watch's event."""
        latest = self._store.models.get(key_of(resource))
        return latest is not None and latest.metadata.generation != resource.metadata.generation
