"""Observe one WhisperModel: its objects from the watch, its pods' answers, and the outcomes of calls to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from whisper_cluster.cache import Store
from whisper_cluster.errors import ClusterError, PodRefused, PodUnreachable
from whisper_cluster.objects import Deployment, Pod
from whisper_cluster.pods import Address, PodClient
from whisper_operator.reconcile.calls_in_progress import PodCalls
from whisper_operator.reconcile.failures import Failure, ended_failure_of, failure_of, refusal_of
from whisper_operator.reconcile.memory import ReconcileMemory
from whisper_operator.reconcile.observation import Observation, PodView
from whisper_operator.reconcile.ownership import is_of_model
from whisper_operator.reconcile.parsed_model import ParsedModel
from whisper_operator.reconcile.pod_keys import PodKeys
from whispermodel.key import Key
from whispermodel.states import State
from whispermodel.wire import ModelStatus

_GONE_WITHIN = timedelta(minutes=1)
"""How long a node may take to remove a pod whose grace period is over; after that, the node is assumed lost."""


@dataclass(frozen=True, slots=True)
class Observer:
    """Gathers everything that a model's target and status depend on."""

    store: Store
    """The objects that the watches have shown."""

    pods: PodClient
    """The servers in the pods."""

    pod_calls: PodCalls
    """The loads and unloads in progress, and the outcomes of those that ended."""

    pod_keys: PodKeys
    """The keys to the pods, by namespace."""

    clock: Callable[[], datetime]
    """The current time, in UTC."""

    async def observe(self, model: ParsedModel, memory: ReconcileMemory) -> Observation:
        """Return what is known of a model now, and remember what the next observation needs."""
        known = self.store.pods.of(model.key)
        present = [pod for pod in known if not pod.ended]
        deployment = self._deployment_of(model.key)
        # Pods that are not wanted will be deleted, even if their controller has not done so yet.
        wanted = [pod for pod in present if not pod.leaving and deployment is not None and deployment.spec.replicas > 0]
        self.pod_calls.abandon(model.key, all_but={pod.metadata.uid for pod in wanted})
        pod_key, refusal = await self._pod_key(model.key.namespace)
        responses = memory.responses
        read_memory = memory.is_memory_due(self.clock())
        views = await observe_pods(
            wanted, self.pods, key=pod_key, last_states=responses.last_states, read_memory=read_memory
        )
        now, drained_at = self.clock(), drains_until(present)
        if drained_at and now < drained_at:
            # A pod that no node takes may be waiting for what terminating pods still hold.
            views = [view.ignoring_unschedulable() for view in views]
        responses.record(views, now)
        memory.memory_read_at = now if read_memory else memory.memory_read_at
        self._record_calls(model, memory, views, now)
        leases = tuple(self.store.leases.of(model.key))
        memory.demand.record(leases, now)
        responding = sum(view.report is not None for view in views)
        return Observation(
            now=now,
            deployment=deployment,
            pods=tuple(view.during(self._call_to(model.key, view)) for view in views),
            leaving=len(present) - len(wanted),
            drains_until=drained_at,
            leases=leases,
            demand_ended_at=memory.demand.ended_at,
            refusal=refusal,
            ended=ended_failure_of(known, now) if deployment and responding < deployment.spec.replicas else None,
            last_states=responses.last_states,
            unresponsive_since=responses.unresponsive_since,
            blocked=memory.back_off.blocked(now),
            load_retry_at=memory.back_off.load_retry_at,
            last_start=memory.receipts.last_start,
        )

    def _deployment_of(self, key: Key) -> Deployment | None:
        found = self.store.deployments.get(key)
        return found if found is not None and is_of_model(found.metadata, key.name) else None

    async def _pod_key(self, namespace: str) -> tuple[str | None, Failure | None]:
        """Return the key to the pods, or why there is none."""
        try:
            return await self.pod_keys.key_for(namespace), None
        except ClusterError as error:
            return None, refusal_of(error)

    def _record_calls(
        self, model: ParsedModel, memory: ReconcileMemory, views: Sequence[PodView], now: datetime
    ) -> None:
        uids = {view.pod.metadata.uid for view in views}
        memory.back_off.reset_if_changed(model.generation, uids)
        # A failed call to a pod that is gone says nothing about the pods that are here.
        outcomes = [one for one in self.pod_calls.take(model.key) if one.pod in uids or not one.failed]
        memory.record_outcomes(outcomes, model.status, now)
        # Only then, and not from pods with a call in progress: our own calls bring receipts of their own.
        idle = [view for view in views if self._call_to(model.key, view) is None]
        memory.receipts.record_reports([view.report for view in idle if view.report], model.status, now)

    def _call_to(self, key: Key, view: PodView) -> State | None:
        return self.pod_calls.in_progress(key, view.pod.metadata.uid)


def drains_until(pods: Iterable[Pod]) -> datetime | None:
    """Return until when terminating pods may take to end; None: no pod is terminating."""
    # The API server sets a pod's deletionTimestamp ahead by the grace period.
    ends = [pod.metadata.deletion_timestamp for pod in pods if pod.metadata.deletion_timestamp]
    return max(ends) + _GONE_WITHIN if ends else None


async def observe_pods(
    pods: Sequence[Pod], calls: PodClient, *, key: str | None, last_states: Mapping[str, State], read_memory: bool
) -> list[PodView]:
    """Ask every pod that serves, or has served, for its status, all at once; then for its memory.

    last_states: the states of pods that have responded before, by uid. read_memory: False: only if a state changed.
    """
    views = await asyncio.gather(*(_observe_pod(pod, calls, key=key, last_states=last_states) for pod in pods))
    changed = any(view.report and view.report.state is not last_states.get(view.pod.metadata.uid) for view in views)
    if not (read_memory or changed):
        return views
    return await asyncio.gather(*(_with_memory(view, calls) for view in views))


async def _observe_pod(pod: Pod, calls: PodClient, *, key: str | None, last_states: Mapping[str, State]) -> PodView:
    failure = failure_of(pod)
    # A pod that responded before and is not ready now may still be working: ask it, do not take it for a new one.
    if failure or not (pod.serves or (pod.metadata.uid in last_states and pod.status.pod_ip)):
        return PodView(pod, failure=failure)
    address = Address(pod.status.pod_ip, key)
    try:
        report = await calls.report(address)
    except (PodUnreachable, PodRefused) as error:
        return PodView(pod, address, unresponsive=str(error))
    return PodView(pod, address, report=report, failure=_load_failure(report))


def _load_failure(report: ModelStatus) -> Failure | None:
    """Return why the last load failed; a load in progress does not change that until it has succeeded."""
    if report.state is not State.FAILED and report.failure is None:
        return None
    return Failure("LoadFailed", report.failure or "The model could not be loaded.")


async def _with_memory(view: PodView, calls: PodClient) -> PodView:
    if view.report is None or view.address is None:
        return view
    try:
        return replace(view, memory=await calls.memory(view.address))
    except (PodUnreachable, PodRefused):
        # The pod reported its state: metrics that cannot be read do not make it unresponsive.
        return view
