"""Compare the cache with what the API server lists: a watch that was disconnected misses deletions."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
from pydantic import ValidationError

from whisper_cluster.api import (
    DEPLOYMENTS,
    LEASES,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    WHISPER_MODELS,
    Cluster,
    Kind,
)
from whisper_cluster.cache import Objects, Store
from whisper_cluster.errors import ClusterError
from whisper_cluster.leases import Lease
from whisper_cluster.names import MODEL_LABEL
from whisper_cluster.objects import Deployment, NetworkPolicy, Pod, Service, WhisperModelObject
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)

_RETRY_SECONDS = 5.0

ObjectT = TypeVar("ObjectT", Deployment, Service, NetworkPolicy, Pod, Lease, WhisperModelObject)


class QueuesKeys(Protocol):
    """Queues a model for reconciliation in `after` seconds."""

    def __call__(self, key: Key, *, after: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Resync:
    """Lists everything at regular intervals."""

    cluster: Cluster
    """The API server."""

    store: Store
    """What the lists update."""

    namespaces: Sequence[str]
    """Where to list; empty: in all namespaces."""

    on_seen: QueuesKeys
    """Called with the key of every model."""

    every: float
    """The interval in seconds."""

    async def run(self) -> None:
        """List everything at the interval until cancelled."""
        while True:
            await asyncio.sleep(self.every)
            try:
                await self.once(within=self.every / 10)
            except ClusterError as error:
                log.warning("resync.failed", reason=str(error))

    async def until_done(self) -> None:
        """List everything once, retrying until it succeeds."""
        while True:
            try:
                return await self.once()
            except ClusterError as error:
                log.warning("resync.failed", reason=str(error), retry_in=_RETRY_SECONDS)
            await asyncio.sleep(_RETRY_SECONDS)

    async def once(self, *, within: float = 0.0) -> None:
        """Update the store from lists, and queue every model within so many seconds. Raises ClusterError."""
        before = self.store.models.keys()
        await self._list(DEPLOYMENTS, Deployment, self.store.deployments)
        await self._list(SERVICES, Service, self.store.services)
        await self._list(NETWORK_POLICIES, NetworkPolicy, self.store.policies)
        await self._list(PODS, Pod, self.store.pods)
        await self._list(LEASES, Lease, self.store.leases)
        await self._list(WHISPER_MODELS, WhisperModelObject, self.store.models, labels="")
        keys = before | self.store.models.keys()
        for number, key in enumerate(keys):
            # Spread out, so that a model that is woken meanwhile does not wait behind all the others.
            self.on_seen(key, after=within * number / len(keys))
        _release_memory()

    async def _list(
        self, kind: Kind, type_: type[ObjectT], objects: Objects[ObjectT], *, labels: str = MODEL_LABEL
    ) -> None:
        known = objects.uids()
        listed: list[ObjectT] = []
        for namespace in self.namespaces or (None,):
            async for one in self.cluster.list_all(kind, namespace, labels=labels):
                # One invalid object must not hide all the others.
                try:
                    listed.append(type_.model_validate(one))
                except ValidationError as error:
                    log.warning("resync.unreadable", kind=kind.kind, reason=str(error))
        objects.replace(listed, known_before=known)


def _release_memory() -> None:
    """Return free heap pages to the kernel (malloc_trim(3)) after the large lists."""
    with suppress(AttributeError):  # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)
