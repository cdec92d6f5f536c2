"""Bring each WhisperModel to its target: observe_pods, plan, act, report; the status is written once, and last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from pydantic import JsonValue, ValidationError

from whisper_cluster.api import DEPLOYMENTS, NETWORK_POLICIES, SERVICES, WHISPER_MODELS, Cluster, Kind
from whisper_cluster.cache import Key, Objects, Store, key_of
from whisper_cluster.errors import ClusterError
from whisper_cluster.objects import Deployment, Metadata, NetworkPolicy, Service, WhisperModelObject
from whisper_cluster.pods import Pods
from whisper_operator.errors import NameTaken
from whisper_operator.reconcile.actions import PodAction, PodCall, calls, replicas, state_of
from whisper_operator.reconcile.conditions import ConditionInputs, conditions, unproven_failure, unreadable
from whisper_operator.reconcile.events import Recorder, events_between, lag_of_schedule
from whisper_operator.reconcile.failures import ENDED_LATELY, START_LIMIT, Failure, ended_failure_of, refusal_of
from whisper_operator.reconcile.memory import ModelMemory
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.reconcile.observe import Observation, PodView, drains_until, observe_pods, observed
from whisper_operator.reconcile.ownership import has_kept, is_of_model
from whisper_operator.reconcile.pod_calls import PodCalls
from whisper_operator.reconcile.pod_keys import PodKeys
from whisper_operator.reconcile.status import (
    FIGURES_EVERY,
    StatusInputs,
    Unreported,
    as_conditions,
    as_json,
    is_due,
    next_status,
)
from whisper_operator.reconcile.subject import Subject
from whisper_operator.resources.deployment import CONTAINER, IMAGE_ANNOTATION, Defaults, deployment
from whisper_operator.resources.network_policy import network_policy
from whisper_operator.resources.service import service
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import Plan, Step, manual_left, plan
from whispermodel.spec import Spec, State
from whispermodel.status import Status

log = structlog.stdlib.get_logger(__name__)

_Small = TypeVar("_Small", Service, NetworkPolicy)

POLL = timedelta(seconds=15)
"""How often pods are asked what they do while nothing else calls for it: their clients come without asking us."""
POLL_MOVING = timedelta(seconds=1)
"""The same while a pod moves by itself or does not answer: no event tells when that ends."""
AFTER_REFUSAL = timedelta(minutes=1)
"""A Deployment that was refused is sent again so often: what it names may have been made meanwhile."""
_MOVING = (State.LOADING, State.UNLOADING)
_AT_REST = (State.ZERO, State.UNLOADED)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """All that reconciling needs. allow_from: the NetworkPolicyPeers who may reach pods; None: everybody."""

    store: Store
    cluster: Cluster
    pods: Pods
    pod_calls: PodCalls
    pod_keys: PodKeys
    recorder: Recorder
    model_metrics: ModelMetrics
    defaults: Defaults
    allow_from: Sequence[dict[str, JsonValue]] | None
    clock: Callable[[], datetime]


@dataclass(slots=True)
class Reconciler:
    """Remembers a little of each model between its reconciliations, which never overlap for one key."""

    dependencies: Dependencies
    memories: dict[Key, ModelMemory] = field(default_factory=dict[Key, ModelMemory])

    async def reconcile(self, key: Key) -> datetime | None:
        """Bring one WhisperModel towards its target; return when to look again. Raises ClusterError."""
        model = self.dependencies.store.models.get(key)
        if model is None or model.metadata.deletion_timestamp is not None:
            return self.forget(key)
        memory = self.memories.setdefault(key, ModelMemory())
        status = _status_of(model)
        try:
            spec = Spec.model_validate(model.spec)
        except ValidationError as error:
            check_at = await self._report_unreadable(model, status, error)
        else:
            check_at = await self._converge(Subject(model, spec, status, memory))
        return self.dependencies.clock() if self._is_outdated(model) else check_at

    def _is_outdated(self, model: WhisperModelObject) -> bool:
        """Tell whether the spec changed meanwhile. If an answer to our own write said so, its event is no news."""
        latest = self.dependencies.store.models.get(key_of(model))
        return latest is not None and latest.metadata.generation != model.metadata.generation

    def forget(self, key: Key) -> None:
        """Leave nothing of a model that is gone; the garbage collector ends what it owned."""
        self.memories.pop(key, None)
        self.dependencies.pod_calls.forget(key)
        self.dependencies.model_metrics.forget(key)

    async def _converge(self, subject: Subject) -> datetime | None:
        observation = await self._observe(subject)
        seen = self._seen(subject, observation)
        planned = plan(subject.spec, seen, observation.now)
        started = self._start_calls(
            subject,
            planned,
            calls(planned, observation, blocked=subject.memory.blocked(observation.now)),
            observation.now,
        )
        if started and subject.memory.called_at is None:
            # Two hundred models may have the same minute: first all are called, and then it is written.
            subject.memory.called_at = observation.now
            return self.dependencies.clock()
        try:
            wanted = await self._apply_deployment(subject, observation, planned, seen)
            await self._apply_service(subject)
            await self._apply_network_policy(subject)
        except ClusterError as error:
            # However often it is sent: so it is told, and what else there is to do is done.
            observation = replace(observation, refusal=refusal_of(error))
            wanted = observation.deployment.spec.replicas if observation.deployment else 0
        self._log_refusal(subject, observation.refusal)
        state = state_of(seen, observation, planned, started)
        if planned.target is not State.LOADED or state in (State.FAILED, State.ZERO):
            # Nobody waits for the model, or not for what a start takes: leadTime would count it in.
            subject.memory.awaited_start = None
        await self._report(subject, _status_inputs(subject, observation, planned, seen, state=state, desired=wanted))
        subject.memory.called_at = None
        return _next_check(planned, observation, state)

    def _log_refusal(self, subject: Subject, refusal: Failure | None) -> None:
        """Log what the API server refuses, once: it is sent again at each look."""
        words = refusal.message if refusal else None
        if refusal and words != subject.memory.refused:
            log.warning("child.refused", whispermodel=str(subject.key), reason=refusal.reason, message=words)
        subject.memory.refused = words

    async def _observe(self, subject: Subject) -> Observation:
        store, key, memory = self.dependencies.store, subject.key, subject.memory
        known = store.pods.of(key)
        pods = [pod for pod in known if not pod.ended]
        there = store.deployments.get(key)
        if there is not None and not is_of_model(there.metadata, key.name):
            there = None
        # Pods that nobody wants are on their way out, though their controller may not have told them yet.
        stay = [pod for pod in pods if not pod.leaving and there is not None and there.spec.replicas > 0]
        uids = {pod.metadata.uid for pod in stay}
        self.dependencies.pod_calls.abandon(key, all_but=uids)
        secret, refusal = await self._key(key.namespace)
        now = self.dependencies.clock()
        scrape = memory.scraped_at is None or now - memory.scraped_at >= FIGURES_EVERY
        views = await observe_pods(stay, self.dependencies.pods, key=secret, known=memory.last_states, scrape=scrape)
        now, drained_at = self.dependencies.clock(), drains_until(pods)
        if drained_at and now < drained_at:
            views = tuple(view.ignoring_unschedulable() for view in views)
        memory.reset_if_changed(subject.model.metadata.generation, uids)
        memory.record_views(views, now, scraped=scrape)
        # What became of calls to pods that are gone says nothing of those that are here.
        outcomes = [one for one in self.dependencies.pod_calls.take(key) if one.pod in uids or not one.failed]
        memory.record_outcomes(outcomes, subject.status, now)
        # After those, and without the pods whose calls still run: our own calls bring receipts of their own.
        at_rest = [view for view in views if not self.dependencies.pod_calls.in_progress(key, view.pod.metadata.uid)]
        memory.record_receipts(at_rest, subject.status, now)
        missing = there is not None and sum(view.report is not None for view in views) < there.spec.replicas
        return Observation(
            now=now,
            deployment=there,
            pods=tuple(self._with_call(key, view) for view in views),
            leaving=len(pods) - len(stay),
            drains_until=drained_at,
            leases=tuple(store.leases.of(key)),
            refusal=refusal,
            ended=ended_failure_of(known, now) if missing else None,
        )

    async def _key(self, namespace: str) -> tuple[str | None, Failure | None]:
        """Return the key to the pods, or why there is none to be had."""
        try:
            return await self.dependencies.pod_keys.key_for(namespace), None
        except ClusterError as error:
            return None, refusal_of(error)

    async def _require_ours(self, kind: Kind, key: Key, there: Metadata | None) -> None:
        """Raise NameTaken when the object of the model's name is somebody else's. there: as the watch shows it."""
        if there is None:
            # The watch shows what carries the model's label: what others made does not.
            found = await self.dependencies.cluster.get(kind, key.namespace, key.name)
            there = Metadata.model_validate(found["metadata"]) if found else None
        if there is not None and not is_of_model(there, key.name):
            raise NameTaken(kind.kind, key.name)

    def _with_call(self, key: Key, view: PodView) -> PodView:
        """Take a pod for what our own call has it do, which it may not have heard yet."""
        transition = self.dependencies.pod_calls.in_progress(key, view.pod.metadata.uid)
        if transition is None or view.report is None:
            return view
        return replace(view, report=view.report.model_copy(update={"state": transition}))

    def _seen(self, subject: Subject, observation: Observation) -> Observed:
        memory = subject.memory
        seen = observed(observation, subject.status, last_states=memory.last_states, unknown_since=memory.unknown_since)
        since = memory.idle_from(seen.idle_since)
        retry_at = memory.retry_at if memory.failed is State.LOADING else None
        return replace(seen, idle_since=since, retry_at=retry_at, spec_since=subject.spec_since(observation.now))

    async def _apply_service(self, subject: Subject) -> None:
        await self._apply_small(SERVICES, Service, self.dependencies.store.services, subject, service(subject.identity))

    async def _apply_network_policy(self, subject: Subject) -> None:
        policies, peers = self.dependencies.store.policies, self.dependencies.allow_from
        if peers is not None or policies.get(subject.key) is not None:
            body = network_policy(subject.identity, peers)
            await self._apply_small(NETWORK_POLICIES, NetworkPolicy, policies, subject, body)

    async def _apply_small(
        self, kind: Kind, type_: type[_Small], objects: Objects[_Small], subject: Subject, body: dict[str, JsonValue]
    ) -> None:
        """Have an object be so that nobody but us changes: any other version of it is drift."""
        there, versions = objects.get(subject.key), subject.memory.versions
        if there is not None and there.metadata.resource_version == versions.get(kind.kind):
            return
        await self._require_ours(kind, subject.key, there.metadata if there else None)
        applied = type_.model_validate(await self.dependencies.cluster.apply(kind, body))
        versions[kind.kind] = applied.metadata.resource_version
        objects.put(applied)

    async def _apply_deployment(self, subject: Subject, observation: Observation, planned: Plan, seen: Observed) -> int:
        """Have the Deployment be as it should; return how many pods are wanted."""
        there, memory = observation.deployment, subject.memory
        wanted = replicas(subject.spec, there, planned, seen=seen.state)
        others = observation.other_scaler is not None
        defaults = self._defaults(observation, seen)
        body = deployment(subject.identity, subject.spec, replicas=None if others else wanted, defaults=defaults)
        digest = _digest(body)
        if there is not None:
            wanted = there.spec.replicas if others else wanted
            unchanged = memory.applied == (digest, there.metadata.generation)
            if unchanged and has_kept(there.metadata, Metadata.model_validate(body["metadata"])):
                return wanted
        await self._require_ours(DEPLOYMENTS, subject.key, there.metadata if there else None)
        if Step.SCALE_UP in planned.steps:
            memory.record_awaited_start(observation.now, planned.reason)
        applied = Deployment.model_validate(await self.dependencies.cluster.apply(DEPLOYMENTS, body))
        memory.applied = (digest, applied.metadata.generation)
        self.dependencies.store.deployments.put(applied)
        return wanted

    def _defaults(self, observation: Observation, seen: Observed) -> Defaults:
        """Let changed defaults wait until the model is at rest: nobody asked for a restart.

        Pods that do not serve have nothing to lose, and may need just that.
        """
        defaults, there = self.dependencies.defaults, observation.deployment
        at_rest = (seen.highest or seen.state) in _AT_REST and not seen.demanded
        if there is None or at_rest or not any(view.address for view in observation.pods):
            return defaults
        defaults = defaults.as_applied(there.metadata.annotations)
        if there.metadata.annotations.get(IMAGE_ANNOTATION) != "settings":
            return defaults
        images = [one.image for one in there.spec.template.spec.containers if one.name == CONTAINER]
        return replace(defaults, image=images[0]) if images else defaults

    def _start_calls(
        self, subject: Subject, planned: Plan, wanted: Iterable[PodCall], now: datetime
    ) -> Sequence[PodCall]:
        """Begin the calls that are not under way already; return them."""
        started: list[PodCall] = []
        for call in wanted:
            transition = self.dependencies.pod_calls.in_progress(subject.key, call.pod)
            # Only a load can be overtaken: the server gives it up for an unload.
            if transition is not None and (transition is not State.LOADING or call.action is PodAction.LOAD):
                continue
            if call.action is PodAction.LOAD:
                subject.memory.record_awaited_start(now, planned.reason)
                self.dependencies.pod_calls.load(subject.key, call.pod, self.dependencies.pods.load(call.address))
            else:
                depth = "warm" if call.action is PodAction.UNLOAD_WARM else "cold"
                unload = self.dependencies.pods.unload(call.address, depth=depth)
                self.dependencies.pod_calls.unload(subject.key, call.pod, unload, releases=call.releases)
            started.append(call)
        return started

    async def _report(self, subject: Subject, inputs: StatusInputs) -> None:
        before, after = subject.status, next_status(subject.status, inputs)
        lag = lag_of_schedule(before, after, subject.memory.called_at or inputs.observation.now)
        self.dependencies.model_metrics.record(subject.key, subject.spec, inputs.observation, after=after, lag=lag)
        if not is_due(before, after, written_at=subject.memory.written_at, now=inputs.observation.now):
            return
        await self._write(subject.model, after)
        subject.memory.written_at, subject.memory.unreported = inputs.observation.now, Unreported()
        if (before.state, before.target) != (after.state, after.target):
            log.info(
                "model.moved", whispermodel=str(subject.key), state=after.state, target=after.target, why=after.message
            )
        for event in events_between(before, after, lag=lag):
            await self.dependencies.recorder.emit(subject.identity, event, inputs.observation.now)

    async def _write(self, model: WhisperModelObject, status: Status) -> None:
        metadata: JsonValue = {
            "name": model.metadata.name,
            "namespace": model.metadata.namespace,
            "uid": model.metadata.uid,
        }
        body: dict[str, JsonValue] = {"metadata": metadata, "status": as_json(status)}
        written = await self.dependencies.cluster.apply(WHISPER_MODELS, body, subresource="status")
        self.dependencies.store.models.put(WhisperModelObject.model_validate(written))

    async def _report_unreadable(self, model: WhisperModelObject, status: Status, error: ValidationError) -> None:
        """Say which part of the spec cannot be obeyed, and leave everything as it is."""
        problem = f"The spec cannot be obeyed: {_first_problem(error)}. Mend it; until then nothing is touched."
        now, generation = self.dependencies.clock(), model.metadata.generation
        findings = as_conditions(status, unreadable(problem), generation=generation, now=now)
        after = status.model_copy(update={"message": problem, "conditions": tuple(findings)})
        self.dependencies.model_metrics.record_invalid(key_of(model), after, now)
        if after != status:
            await self._write(model, after)


def _status_inputs(
    subject: Subject, observation: Observation, planned: Plan, seen: Observed, *, state: State, desired: int
) -> StatusInputs:
    unreported, generation = subject.memory.unreported, subject.model.metadata.generation
    last_unload = unreported.unload or subject.status.last_unload
    unproven = unproven_failure(subject.status, planned, generation=generation, state=state)
    return StatusInputs(
        generation=generation,
        state=state,
        plan=planned,
        observation=observation,
        desired_replicas=desired,
        spec_since=subject.spec_since(observation.now),
        idle_since=seen.idle_since,
        manual=manual_left(subject.spec, seen, observation.now),
        unreported=unreported,
        findings=tuple(conditions(ConditionInputs(state, planned, observation, desired, last_unload, unproven))),
    )


def _next_check(planned: Plan, observation: Observation, state: State) -> datetime | None:
    ends = [lease.expires_at() for lease in observation.leases]
    orders = [lease.manual.at for lease in observation.leases if lease.manual]
    times = [
        planned.check_at,
        *(time for time in (*ends, *orders, observation.drains_until) if time and time > observation.now),
    ]
    if observation.refusal:
        times.append(observation.now + AFTER_REFUSAL)
    if observation.ended:
        times.append(observation.now + ENDED_LATELY)
    starts = [since for view in observation.pods if (since := view.pod.awaits_its_start_since)]
    times += [late for since in starts if (late := since + START_LIMIT) > observation.now]
    if any(view.address for view in observation.pods):
        moving = state in _MOVING or any(view.unresponsive for view in observation.pods)
        times.append(observation.now + (POLL_MOVING if moving else POLL))
    return min((time for time in times if time), default=None)


def _status_of(model: WhisperModelObject) -> Status:
    """Return what the status says; of one that a later version wrote, what is understood of each part."""
    try:
        return Status.model_validate(model.status)
    except ValidationError as error:
        strange = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
        return Status.model_validate({name: part for name, part in model.status.items() if name not in strange})


def _digest(body: dict[str, JsonValue]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"spec.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
