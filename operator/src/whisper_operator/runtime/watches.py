"""What kopf is told to watch. Each handler only notes what was seen and puts the model's key in line.

on.event handlers leave nothing behind in the cluster: no finalizers, no annotations. kopf drops their errors, which is
why nothing is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import kopf
import structlog
from pydantic import ValidationError

from whisper_cluster.api import DEPLOYMENTS, LEASES, NETWORK_POLICIES, PODS, SERVICES, WHISPER_MODELS, Kind
from whisper_cluster.cache import Key, Objects, Store, key_of, model_of
from whisper_cluster.names import MODEL_LABEL
from whisper_cluster.objects import Deployment, Lease, NetworkPolicy, Pod, Service, WhisperModelObject

log = structlog.stdlib.get_logger(__name__)

_WATCH_SECONDS = 300
"""A watch ends by itself after so long and is begun again, so that one that went deaf does not stay so for ever."""

ObjectT = TypeVar("ObjectT", Deployment, Service, NetworkPolicy, Pod, Lease, WhisperModelObject)


def registry(store: Store, *, on_seen: Callable[[Key], None], stuck: Callable[[], object]) -> kopf.OperatorRegistry:
    """Return all handlers. on_seen: called with a model's key whenever something of it was seen to change."""
    handlers = kopf.OperatorRegistry()
    _watch(handlers, WHISPER_MODELS, WhisperModelObject, store.models, on_seen=on_seen)
    _watch(handlers, DEPLOYMENTS, Deployment, store.deployments, on_seen=on_seen)
    _watch(handlers, SERVICES, Service, store.services, on_seen=on_seen)
    _watch(handlers, NETWORK_POLICIES, NetworkPolicy, store.policies, on_seen=on_seen)
    _watch(handlers, PODS, Pod, store.pods, on_seen=on_seen)
    _watch(handlers, LEASES, Lease, store.leases, on_seen=on_seen)

    @kopf.on.login(registry=handlers)
    async def log_in(**details: Any) -> kopf.ConnectionInfo | None:
        """Log in as the client of whisper_cluster does, without importing another one."""
        return kopf.login_with_service_account(**details) or kopf.login_with_kubeconfig(**details)

    @kopf.on.probe(registry=handlers, id="workers", errors=kopf.ErrorsMode.PERMANENT)
    async def workers_move(
        **_: object,
    ) -> str:
        """Fail while a reconciliation takes longer than any can."""
        if keys := stuck():
            raise kopf.PermanentError(f"stuck: {keys}")
        return "they move"

    return handlers


class _NothingToCompare(kopf.DiffBaseStorage):
    """Keeps kopf from copying each object at each event, for handlers of changes that are not here.

    That took a third of the time of all that the operator does.
    """

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: watch, and nothing else."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    # The resources are known, so no right to look for others is needed.
    chosen.scanning.disabled = True
    chosen.watching.server_timeout = _WATCH_SECONDS
    chosen.watching.client_timeout = _WATCH_SECONDS + 30
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 30
    # A task for each object that has had an event lately: not for longer than need be.
    chosen.queueing.idle_timeout = 0.5
    chosen.process.ultimate_exiting_timeout = 10
    chosen.persistence.diffbase_storage = _NothingToCompare()
    for kind in (DEPLOYMENTS, SERVICES, NETWORK_POLICIES, PODS, LEASES):
        # As a tuple: the key 'group/plural' does nothing in kopf 1.45.2.
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
            one = type_.model_validate(event["object"])
        except ValidationError as error:
            log.warning("watch.unreadable", kind=kind.kind, reason=str(error))
            return
        gone = event["type"] == "DELETED"
        if gone:
            objects.remove(one)
        key = key_of(one) if kind is WHISPER_MODELS else model_of(one)
        if (gone or objects.put(one)) and key is not None:
            on_seen(key)
