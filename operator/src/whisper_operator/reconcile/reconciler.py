"""Bring each WhisperModel to its target: look, plan, act, report; the status is written once, and last."""

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
from whisper_operator.reconcile.actions import Call, Deed, calls, replicas, state_of
from whisper_operator.reconcile.conditions import Situation, conditions, unproven_failure, unreadable
from whisper_operator.reconcile.events import Recorder, happenings, lag_of_schedule
from whisper_operator.reconcile.failures import ENDED_LATELY, START_LIMIT, Failure, ended_failure_of, refusal_of
from whisper_operator.reconcile.memory import Ledger
from whisper_operator.reconcile.model_metrics import Board
from whisper_operator.reconcile.observe import PodView, Scene, drains_until, look, observed
from whisper_operator.reconcile.ownership import has_kept, is_of_model
from whisper_operator.reconcile.pod_calls import Errands
from whisper_operator.reconcile.pod_keys import Keys
from whisper_operator.reconcile.status import FIGURES_EVERY, News, Picture, as_conditions, as_json, is_due, next_status
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
class Surroundings:
    """All that reconciling needs. allow_from: the NetworkPolicyPeers who may reach pods; None: everybody."""

    store: Store
    cluster: Cluster
    pods: Pods
    errands: Errands
    keys: Keys
    recorder: Recorder
    board: Board
    defaults: Defaults
    allow_from: Sequence[dict[str, JsonValue]] | None
    clock: Callable[[], datetime]


@dataclass(slots=True)
class Reconciler:
    """Remembers a little of each model between its reconciliations, which never overlap for one key."""

    around: Surroundings
    ledgers: dict[Key, Ledger] = field(default_factory=dict[Key, Ledger])

    async def reconcile(self, key: Key) -> datetime | None:
        """Bring one WhisperModel towards its target; return when to look again. Raises ClusterError."""
        model = self.around.store.models.get(key)
        if model is None or model.metadata.deletion_timestamp is not None:
            return self.forget(key)
        ledger = self.ledgers.setdefault(key, Ledger())
        status = _status_of(model)
        try:
            spec = Spec.model_validate(model.spec)
        except ValidationError as error:
            check_at = await self._report_unreadable(model, status, error)
        else:
            check_at = await self._converge(Subject(model, spec, status, ledger))
        return self.around.clock() if self._is_outdated(model) else check_at

    def _is_outdated(self, model: WhisperModelObject) -> bool:
        """Tell whether the spec changed meanwhile. If an answer to our own write said so, its event is no news."""
        latest = self.around.store.models.get(key_of(model))
        return latest is not None and latest.metadata.generation != model.metadata.generation

    def forget(self, key: Key) -> None:
        """Leave nothing of a model that is gone; the garbage collector ends what it owned."""
        self.ledgers.pop(key, None)
        self.around.errands.forget(key)
        self.around.board.forget(key)

    async def _converge(self, subject: Subject) -> datetime | None:
        scene = await self._look(subject)
        seen = self._seen(subject, scene)
        planned = plan(subject.spec, seen, scene.now)
        begun = self._begin(
            subject, planned, calls(planned, scene, held_back=subject.ledger.held_back(scene.now)), scene.now
        )
        if begun and subject.ledger.acted_at is None:
            # Two hundred models may have the same minute: first all are called, and then it is written.
            subject.ledger.acted_at = scene.now
            return self.around.clock()
        try:
            wanted = await self._apply_deployment(subject, scene, planned, seen)
            await self._apply_service(subject)
            await self._apply_network_policy(subject)
        except ClusterError as error:
            # However often it is sent: so it is told, and what else there is to do is done.
            scene = replace(scene, refusal=refusal_of(error))
            wanted = scene.deployment.spec.replicas if scene.deployment else 0
        self._log_refusal(subject, scene.refusal)
        state = state_of(seen, scene, planned, begun)
        if planned.target is not State.LOADED or state in (State.FAILED, State.ZERO):
            # Nobody waits for the model, or not for what a start takes: leadTime would count it in.
            subject.ledger.waking = None
        await self._report(subject, _picture(subject, scene, planned, seen, state=state, desired=wanted))
        subject.ledger.acted_at = None
        return _look_again_at(planned, scene, state)

    def _log_refusal(self, subject: Subject, refusal: Failure | None) -> None:
        """Log what the API server refuses, once: it is sent again at each look."""
        words = refusal.message if refusal else None
        if refusal and words != subject.ledger.refused:
            log.warning("child.refused", whispermodel=str(subject.key), reason=refusal.reason, message=words)
        subject.ledger.refused = words

    async def _look(self, subject: Subject) -> Scene:
        store, key, ledger = self.around.store, subject.key, subject.ledger
        known = store.pods.of(key)
        pods = [pod for pod in known if not pod.ended]
        there = store.deployments.get(key)
        if there is not None and not is_of_model(there.metadata, key.name):
            there = None
        # Pods that nobody wants are on their way out, though their controller may not have told them yet.
        stay = [pod for pod in pods if not pod.leaving and there is not None and there.spec.replicas > 0]
        uids = {pod.metadata.uid for pod in stay}
        self.around.errands.abandon(key, all_but=uids)
        secret, refusal = await self._key(key.namespace)
        now = self.around.clock()
        scrape = ledger.scraped_at is None or now - ledger.scraped_at >= FIGURES_EVERY
        views = await look(stay, self.around.pods, key=secret, known=ledger.last_states, scrape=scrape)
        now, drained_at = self.around.clock(), drains_until(pods)
        if drained_at and now < drained_at:
            views = tuple(view.awaiting_room() for view in views)
        ledger.note_circumstances(subject.model.metadata.generation, uids)
        ledger.note_views(views, now, scraped=scrape)
        # What became of calls to pods that are gone says nothing of those that are here.
        outcomes = [one for one in self.around.errands.take(key) if one.pod in uids or not one.failed]
        ledger.note_outcomes(outcomes, subject.status, now)
        # After those, and without the pods whose calls still run: our own calls bring receipts of their own.
        at_rest = [view for view in views if not self.around.errands.under_way(key, view.pod.metadata.uid)]
        ledger.note_receipts(at_rest, subject.status, now)
        missing = there is not None and sum(view.report is not None for view in views) < there.spec.replicas
        return Scene(
            now=now,
            deployment=there,
            pods=tuple(self._with_errand(key, view) for view in views),
            leaving=len(pods) - len(stay),
            drains_until=drained_at,
            leases=tuple(store.leases.of(key)),
            refusal=refusal,
            ended=ended_failure_of(known, now) if missing else None,
        )

    async def _key(self, namespace: str) -> tuple[str | None, Failure | None]:
        """Return the key to the pods, or why there is none to be had."""
        try:
            return await self.around.keys.key_for(namespace), None
        except ClusterError as error:
            return None, refusal_of(error)

    async def _require_ours(self, kind: Kind, key: Key, there: Metadata | None) -> None:
        """Raise NameTaken when the object of the model's name is somebody else's. there: as the watch shows it."""
        if there is None:
            # The watch shows what carries the model's label: what others made does not.
            found = await self.around.cluster.get(kind, key.namespace, key.name)
            there = Metadata.model_validate(found["metadata"]) if found else None
        if there is not None and not is_of_model(there, key.name):
            raise NameTaken(kind.kind, key.name)

    def _with_errand(self, key: Key, view: PodView) -> PodView:
        """Take a pod for what our own call has it do, which it may not have heard yet."""
        doing = self.around.errands.under_way(key, view.pod.metadata.uid)
        if doing is None or view.report is None:
            return view
        return replace(view, report=view.report.model_copy(update={"state": doing}))

    def _seen(self, subject: Subject, scene: Scene) -> Observed:
        ledger = subject.ledger
        seen = observed(scene, subject.status, last_states=ledger.last_states, unknown_since=ledger.unknown_since)
        since = ledger.idle_from(seen.idle_since)
        retry_at = ledger.retry_at if ledger.failed is State.LOADING else None
        return replace(seen, idle_since=since, retry_at=retry_at, spec_since=subject.spec_since(scene.now))

    async def _apply_service(self, subject: Subject) -> None:
        await self._apply_small(SERVICES, Service, self.around.store.services, subject, service(subject.identity))

    async def _apply_network_policy(self, subject: Subject) -> None:
        policies, peers = self.around.store.policies, self.around.allow_from
        if peers is not None or policies.get(subject.key) is not None:
            body = network_policy(subject.identity, peers)
            await self._apply_small(NETWORK_POLICIES, NetworkPolicy, policies, subject, body)

    async def _apply_small(
        self, kind: Kind, type_: type[_Small], objects: Objects[_Small], subject: Subject, body: dict[str, JsonValue]
    ) -> None:
        """Have an object be so that nobody but us changes: any other version of it is drift."""
        there, versions = objects.get(subject.key), subject.ledger.versions
        if there is not None and there.metadata.resource_version == versions.get(kind.kind):
            return
        await self._require_ours(kind, subject.key, there.metadata if there else None)
        applied = type_.model_validate(await self.around.cluster.apply(kind, body))
        versions[kind.kind] = applied.metadata.resource_version
        objects.put(applied)

    async def _apply_deployment(self, subject: Subject, scene: Scene, planned: Plan, seen: Observed) -> int:
        """Have the Deployment be as it should; return how many pods are wanted."""
        there, ledger = scene.deployment, subject.ledger
        wanted = replicas(subject.spec, there, planned, seen=seen.state)
        others = scene.other_scaler is not None
        defaults = self._defaults(scene, seen)
        body = deployment(subject.identity, subject.spec, replicas=None if others else wanted, defaults=defaults)
        digest = _digest(body)
        if there is not None:
            wanted = there.spec.replicas if others else wanted
            unchanged = ledger.applied == (digest, there.metadata.generation)
            if unchanged and has_kept(there.metadata, Metadata.model_validate(body["metadata"])):
                return wanted
        await self._require_ours(DEPLOYMENTS, subject.key, there.metadata if there else None)
        if Step.SCALE_UP in planned.steps:
            ledger.note_waking(scene.now, planned.reason)
        applied = Deployment.model_validate(await self.around.cluster.apply(DEPLOYMENTS, body))
        ledger.applied = (digest, applied.metadata.generation)
        self.around.store.deployments.put(applied)
        return wanted

    def _defaults(self, scene: Scene, seen: Observed) -> Defaults:
        """Let changed defaults wait until the model is at rest: nobody asked for a restart.

        Pods that do not serve have nothing to lose, and may need just that.
        """
        defaults, there = self.around.defaults, scene.deployment
        at_rest = (seen.highest or seen.state) in _AT_REST and not seen.demanded
        if there is None or at_rest or not any(view.address for view in scene.pods):
            return defaults
        defaults = defaults.as_applied(there.metadata.annotations)
        if there.metadata.annotations.get(IMAGE_ANNOTATION) != "settings":
            return defaults
        images = [one.image for one in there.spec.template.spec.containers if one.name == CONTAINER]
        return replace(defaults, image=images[0]) if images else defaults

    def _begin(self, subject: Subject, planned: Plan, wanted: Iterable[Call], now: datetime) -> Sequence[Call]:
        """Begin the calls that are not under way already; return them."""
        begun: list[Call] = []
        for call in wanted:
            doing = self.around.errands.under_way(subject.key, call.pod)
            # Only a load can be overtaken: the server gives it up for an unload.
            if doing is not None and (doing is not State.LOADING or call.deed is Deed.LOAD):
                continue
            if call.deed is Deed.LOAD:
                subject.ledger.note_waking(now, planned.reason)
                self.around.errands.load(subject.key, call.pod, self.around.pods.load(call.address))
            else:
                depth = "warm" if call.deed is Deed.UNLOAD_WARM else "cold"
                unload = self.around.pods.unload(call.address, depth=depth)
                self.around.errands.unload(subject.key, call.pod, unload, releases=call.releases)
            begun.append(call)
        return begun

    async def _report(self, subject: Subject, picture: Picture) -> None:
        before, after = subject.status, next_status(subject.status, picture)
        lag = lag_of_schedule(before, after, subject.ledger.acted_at or picture.scene.now)
        self.around.board.note(subject.key, subject.spec, picture.scene, after=after, lag=lag)
        if not is_due(before, after, written_at=subject.ledger.written_at, now=picture.scene.now):
            return
        await self._write(subject.model, after)
        subject.ledger.written_at, subject.ledger.news = picture.scene.now, News()
        if (before.state, before.target) != (after.state, after.target):
            log.info(
                "model.moved", whispermodel=str(subject.key), state=after.state, target=after.target, why=after.message
            )
        for happening in happenings(before, after, lag=lag):
            await self.around.recorder.emit(subject.identity, happening, picture.scene.now)

    async def _write(self, model: WhisperModelObject, status: Status) -> None:
        metadata: JsonValue = {
            "name": model.metadata.name,
            "namespace": model.metadata.namespace,
            "uid": model.metadata.uid,
        }
        body: dict[str, JsonValue] = {"metadata": metadata, "status": as_json(status)}
        written = await self.around.cluster.apply(WHISPER_MODELS, body, subresource="status")
        self.around.store.models.put(WhisperModelObject.model_validate(written))

    async def _report_unreadable(self, model: WhisperModelObject, status: Status, error: ValidationError) -> None:
        """Say which part of the spec cannot be obeyed, and leave everything as it is."""
        problem = f"The spec cannot be obeyed: {_first_problem(error)}. Mend it; until then nothing is touched."
        now, generation = self.around.clock(), model.metadata.generation
        findings = as_conditions(status, unreadable(problem), generation=generation, now=now)
        after = status.model_copy(update={"message": problem, "conditions": tuple(findings)})
        self.around.board.note_unreadable(key_of(model), after, now)
        if after != status:
            await self._write(model, after)


def _picture(subject: Subject, scene: Scene, planned: Plan, seen: Observed, *, state: State, desired: int) -> Picture:
    news, generation = subject.ledger.news, subject.model.metadata.generation
    last_unload = news.unload or subject.status.last_unload
    unproven = unproven_failure(subject.status, planned, generation=generation, state=state)
    return Picture(
        generation=generation,
        state=state,
        plan=planned,
        scene=scene,
        desired_replicas=desired,
        spec_since=subject.spec_since(scene.now),
        idle_since=seen.idle_since,
        manual=manual_left(subject.spec, seen, scene.now),
        news=news,
        findings=tuple(conditions(Situation(state, planned, scene, desired, last_unload, unproven))),
    )


def _look_again_at(planned: Plan, scene: Scene, state: State) -> datetime | None:
    ends = [lease.expires_at() for lease in scene.leases]
    orders = [lease.manual.at for lease in scene.leases if lease.manual]
    times = [planned.check_at, *(time for time in (*ends, *orders, scene.drains_until) if time and time > scene.now)]
    if scene.refusal:
        times.append(scene.now + AFTER_REFUSAL)
    if scene.ended:
        times.append(scene.now + ENDED_LATELY)
    starts = [since for view in scene.pods if (since := view.pod.awaits_its_start_since)]
    times += [late for since in starts if (late := since + START_LIMIT) > scene.now]
    if any(view.address for view in scene.pods):
        moving = state in _MOVING or any(view.silence for view in scene.pods)
        times.append(scene.now + (POLL_MOVING if moving else POLL))
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
