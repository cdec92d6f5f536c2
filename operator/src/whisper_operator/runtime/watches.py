"""The watches, by kopf. A handler only stores the object and queues the model's key.

on.event handlers leave nothing in the cluster: no finalizers, no annotations. kopf drops their errors, so they do
nothing that may fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import kopf
import structlog
from pydantic import ValidationError

from whisper_cluster.api import DEPLOYMENTS, LEASES, NETWORK_POLICIES, PODS, SERVICES, WHISPER_MODELS, Kind
from whisper_cluster.cache import Objects, Store, key_of, model_of
from whisper_cluster.leases import Lease
from whisper_cluster.names import MODEL_LABEL
from whisper_cluster.objects import Deployment, NetworkPolicy, Pod, Service, WhisperModelObject
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)

_WATCH_SECONDS = 300
"""How long a watch lasts before it is restarted, so that a dead connection does not go unnoticed."""

ObjectT = TypeVar("ObjectT", Deployment, Service, NetworkPolicy, Pod, Lease, WhisperModelObject)


def registry(store: Store, *, on_seen: Callable[[Key], None], stuck: Callable[[], object]) -> kopf.OperatorRegistry:
    """Return all handlers. on_seen: called with a model's key when one of its objects has changed."""
    handlers = kopf.OperatorRegistry()
    _watch(handlers, WHISPER_MODELS, WhisperModelObject, store.models, on_seen=on_seen)
    _watch(handlers, DEPLOYMENTS, Deployment, store.deployments, on_seen=on_seen)
    _watch(handlers, SERVICES, Service, store.services, on_seen=on_seen)
    _watch(handlers, NETWORK_POLICIES, NetworkPolicy, store.policies, on_seen=on_seen)
    _watch(handlers, PODS, Pod, store.pods, on_seen=on_seen)
    _watch(handlers, LEASES, Lease, store.leases, on_seen=on_seen)

    @kopf.on.login(registry=handlers)
    async def log_in(**details: Any) -> kopf.ConnectionInfo | None:
        """Log in the way whisper_cluster's client does, without importing another client."""
        return kopf.login_with_service_account(**details) or kopf.login_with_kubeconfig(**details)

    @kopf.on.probe(registry=handlers, id="workers", errors=kopf.ErrorsMode.PERMANENT)
    async def check_workers(
        **_: object,
    ) -> str:
        """Fail while a reconciliation takes longer than its timeout allows."""
        if keys := stuck():
            raise kopf.PermanentError(f"stuck: {keys}")
        return "ok"

    return handlers


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps kopf from copying every object at every event for change handlers, which the operator does not have.

    The copies took a third of the operator's processor time.
    """

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: it watches, and does nothing else."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    # The resources are known, so the operator needs no right to discover others.
    chosen.scanning.disabled = True
    chosen.watching.server_timeout = _WATCH_SECONDS
    chosen.watching.client_timeout = _WATCH_SECONDS + 30
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 30
    # kopf keeps a task for each object with a recent event: not for longer than necessary.
    chosen.queueing.idle_timeout = 0.5
    chosen.process.ultimate_exiting_timeout = 10
    chosen.persistence.diffbase_storage = _NoDiffBase()
    for kind in (DEPLOYMENTS, SERVICES, NETWORK_POLICIES, PODS, LEASES):
        # As a tuple: the key 'group/plural' has no effect in kopf 1.45.2.
        chosen.watching.label_selectors[_selector(kind)] = MODEL_LABEL
    return chosen


def _selector(kind: Kind) -> tuple[str, str, str]:
    group, _, version = kind.api.rpartition("/")
    return group, version, kind.plural


def _watch(
    handlers: kopf.OperatorRegistry,
    kind: Kind,
    type_: type[ObjectT],
    objects: Objects[ObjectT],
    *,
    on_seen: Callable[[Key], None],
) -> None:
    @kopf.on.event(*_selector(kind), registry=handlers, id=f"seen-{kind.plural}")
    async def seen(event: Mapping[str, object], **_: object) -> None:
        try:
            found = type_.model_validate(event["object"])
        except ValidationError as error:
            log.warning("watch.unreadable", kind=kind.kind, reason=str(error))
            return
        is_deleted = event["type"] == "DELETED"
        if is_deleted:
            objects.remove(found)
        key = key_of(found) if kind is WHISPER_MODELS else model_of(found)
        if (is_deleted or objects.put(found)) and key is not None:
            on_seen(key)
