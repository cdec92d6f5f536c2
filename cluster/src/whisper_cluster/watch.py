"""Keep a cache equal to the cluster: list once, then follow the changes. For processes without kopf."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import structlog
from pydantic import ValidationError

from whisper_cluster.api import Cluster, JsonObject, Kind, WatchEvent
from whisper_cluster.cache import Objects, key_of, model_of
from whisper_cluster.errors import ClusterError
from whisper_cluster.objects import Pod, WhisperModelObject
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)

_RETRY_SECONDS = (0.1, 5.0)
"""The first and the longest pause after a failure; it doubles in between."""

ObjectT = TypeVar("ObjectT", Pod, WhisperModelObject)


@dataclass(slots=True, kw_only=True)
class Follower(Generic[ObjectT]):
    """Follows the objects of one kind in one namespace, or (None) in all."""

    cluster: Cluster
    """The API server."""
    kind: Kind
    """What to follow."""
    type: type[ObjectT]
    """How to read it."""
    namespace: str | None
    """Where; None: everywhere."""
    labels: str = ""
    """Which of them."""
    objects: Objects[ObjectT]
    """The cache."""
    on_change: Callable[[Key], None]
    """Called with the model's key after one of its objects has changed."""
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the cache holds a first list."""

    async def run(self) -> None:
        """Follow until cancelled. During an outage of the API server the cache stays as it is."""
        first, longest = _RETRY_SECONDS
        pause = first
        while True:
            try:
                version = await self._list()
                pause = first
                await self._watch(version)
            except ClusterError as error:
                if error.code != _GONE:
                    log.warning("watch.failed", kind=self.kind.kind, reason=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _list(self) -> str:
        """Replace the namespace's part of the cache with a list, and return the list's version."""
        known = {key: uid for key, uid in self.objects.uids().items() if self.namespace in (None, key.namespace)}
        before = [one for key in known if (one := self.objects.get(key)) is not None]
        listed, version = await self.cluster.list_with_version(self.kind, self.namespace, labels=self.labels)
        found = [one for one in map(self._parsed, listed) if one is not None]
        self.objects.replace(found, known_before=known)
        changed = {_model_of(one) for one in (*before, *found)}
        self.synced.set()
        for model in changed:
            self.on_change(model)
        return version

    async def _watch(self, version: str) -> None:
        """Follow the changes after a version, over as many watches as it takes. Raises ClusterError."""
        while True:
            async for event in self.cluster.watch(self.kind, self.namespace, version=version, labels=self.labels):
                version = _version_of(event) or version
                if event.type != "BOOKMARK" and (changed := self._parsed(event.object)) is not None:
                    self._apply(event.type, changed)
            await asyncio.sleep(_RETRY_SECONDS[0])

    def _apply(self, change: str, one: ObjectT) -> None:
        if change == "DELETED":
            self.objects.remove(one)
        else:
            self.objects.put(one)
        self.on_change(_model_of(one))

    def _parsed(self, body: JsonObject) -> ObjectT | None:
        """Return the object; None: it cannot be read, which must not hide all the others."""
        try:
            return self.type.model_validate(body)
        except ValidationError as error:
            log.warning("watch.unreadable", kind=self.kind.kind, reason=str(error))
            return None


_GONE = 410
"""The version is older than what the API server remembers: list again. No failure."""


def _model_of(one: Pod | WhisperModelObject) -> Key:
    model = None if isinstance(one, WhisperModelObject) else model_of(one)
    return model or key_of(one)


def _version_of(event: WatchEvent) -> str | None:
    version = cast("JsonObject", event.object.get("metadata") or {}).get("resourceVersion")
    return str(version) if version else None
