"""Apply the objects that a WhisperModel owns: its Deployment, Service and NetworkPolicy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog
from pydantic import JsonValue

from whisper_cluster.api import DEPLOYMENTS, NETWORK_POLICIES, SERVICES, Cluster, Kind
from whisper_cluster.cache import Store
from whisper_cluster.errors import ClusterError
from whisper_cluster.objects import Deployment, Metadata, NetworkPolicy, Service
from whisper_operator.errors import NameTaken
from whisper_operator.reconcile.failures import Failure, refusal_of
from whisper_operator.reconcile.memory import AppliedVersions, ReconcileMemory
from whisper_operator.reconcile.observation import Observation
from whisper_operator.reconcile.ownership import has_kept, is_of_model
from whisper_operator.reconcile.parsed_model import ParsedModel
from whisper_operator.resources.deployment import CONTAINER, IMAGE_ANNOTATION, Defaults, deployment
from whisper_operator.resources.network_policy import network_policy
from whisper_operator.resources.service import service
from whispermodel.key import Key
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import Plan, Step
from whispermodel.states import State

log = structlog.stdlib.get_logger(__name__)

_AT_REST = (State.ZERO, State.UNLOADED)


@dataclass(frozen=True, slots=True)
class Desired:
    """What a model's objects are made from."""

    model: ParsedModel
    """The model that owns them."""

    observation: Observation
    """What was found."""

    observed: Observed
    """The same, as the planner sees it."""

    plan: Plan
    """What the planner decided."""

    replicas: int
    """How many pods there should be."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The result. replicas: how many pods the Deployment asks for. refusal: why an object could not be applied."""

    replicas: int
    refusal: Failure | None = None


@dataclass(frozen=True, slots=True)
class Children:
    """Applies a model's objects, each only if it differs from what was applied last."""

    cluster: Cluster
    """The API server."""

    store: Store
    """The objects that the watches have shown."""

    defaults: Defaults
    """What pods get where the spec says nothing."""

    allow_from: Sequence[dict[str, JsonValue]] | None
    """The NetworkPolicyPeers that may reach pods; None: everybody."""

    async def apply(self, desired: Desired, memory: ReconcileMemory) -> Applied:
        """Apply the objects in order, up to the first one that is refused. Raises any other ClusterError."""
        model, versions = desired.model, memory.applied
        result = Applied(desired.replicas)
        try:
            await self._apply_deployment(desired, memory)
            await self._apply_service(model, versions)
            await self._apply_network_policy(model, versions)
        except ClusterError as error:
            # Retrying at once will not help, so report it and carry on with the remaining steps.
            there = desired.observation.deployment
            result = Applied(there.spec.replicas if there else 0, refusal_of(error))
        _log_refusal(model.key, result.refusal or desired.observation.refusal, versions)
        return result

    async def _apply_deployment(self, desired: Desired, memory: ReconcileMemory) -> None:
        model, there = desired.model, desired.observation.deployment
        is_scaled_by_others = desired.observation.other_scaler is not None
        body = deployment(
            model.identity,
            model.spec,
            replicas=None if is_scaled_by_others else desired.replicas,
            defaults=_defaults_for(desired, self.defaults),
        )
        digest = _digest(body)
        is_unchanged = there is not None and memory.applied.deployment == (digest, there.metadata.generation)
        if there and is_unchanged and has_kept(there.metadata, Metadata.model_validate(body["metadata"])):
            return
        await self._require_ours(DEPLOYMENTS, model.key, there.metadata if there else None)
        if Step.SCALE_UP in desired.plan.steps:
            memory.receipts.await_start(desired.observation.now, desired.plan.reason)
        applied = Deployment.model_validate(await self.cluster.apply(DEPLOYMENTS, body))
        memory.applied.deployment = (digest, applied.metadata.generation)
        self.store.deployments.put(applied)

    async def _apply_service(self, model: ParsedModel, versions: AppliedVersions) -> None:
        found = self.store.services.get(model.key)
        if await self._must_apply(SERVICES, model.key, there=found.metadata if found else None, versions=versions):
            applied = Service.model_validate(await self.cluster.apply(SERVICES, service(model.identity)))
            versions.others[SERVICES.kind] = applied.metadata.resource_version
            self.store.services.put(applied)

    async def _apply_network_policy(self, model: ParsedModel, versions: AppliedVersions) -> None:
        found = self.store.policies.get(model.key)
        if self.allow_from is None and found is None:
            return
        if await self._must_apply(
            NETWORK_POLICIES, model.key, there=found.metadata if found else None, versions=versions
        ):
            body = network_policy(model.identity, self.allow_from)
            applied = NetworkPolicy.model_validate(await self.cluster.apply(NETWORK_POLICIES, body))
            versions.others[NETWORK_POLICIES.kind] = applied.metadata.resource_version
            self.store.policies.put(applied)

    async def _must_apply(self, kind: Kind, key: Key, *, there: Metadata | None, versions: AppliedVersions) -> bool:
        """Return whether an object is missing or has drifted: only the operator changes it. Raises NameTaken."""
        if there is not None and there.resource_version == versions.others.get(kind.kind):
            return False
        await self._require_ours(kind, key, there)
        return True

    async def _require_ours(self, kind: Kind, key: Key, there: Metadata | None) -> None:
        """Raise NameTaken if the object of the model's name belongs to somebody else. there: as the watch shows it."""
        if there is None:
            # The watch shows only objects that carry the model's label: one made by somebody else may lack it.
            found = await self.cluster.get(kind, key.namespace, key.name)
            there = Metadata.model_validate(found["metadata"]) if found else None
        if there is not None and not is_of_model(there, key.name):
            raise NameTaken(kind.kind, key.name)


def _defaults_for(desired: Desired, defaults: Defaults) -> Defaults:
    """Keep the defaults that the Deployment was made with until the model is at rest: nobody asked for a restart.

    Pods that do not serve have nothing to lose, and may need the new defaults in order to serve.
    """
    there, observed = desired.observation.deployment, desired.observed
    is_at_rest = (observed.highest or observed.state) in _AT_REST and not observed.demanded
    if there is None or is_at_rest or not any(view.address for view in desired.observation.pods):
        return defaults
    kept = defaults.as_applied(there.metadata.annotations)
    if there.metadata.annotations.get(IMAGE_ANNOTATION) != "settings":
        return kept
    images = [one.image for one in there.spec.template.spec.containers if one.name == CONTAINER]
    return replace(kept, image=images[0]) if images else kept


def _log_refusal(key: Key, refusal: Failure | None, versions: AppliedVersions) -> None:
    """Log a refusal once: the object is sent again at each reconciliation."""
    message = refusal.message if refusal else None
    if refusal and message != versions.refused:
        log.warning("child.refused", whispermodel=str(key), reason=refusal.reason, message=message)
    versions.refused = message


def _digest(body: dict[str, JsonValue]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
