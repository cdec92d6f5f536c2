"""What the watches have shown: the objects of the cluster as they were seen last, by key.

A watch can miss a deletion while it is cut off, so a resync replaces what is here by what a list returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from whisper_cluster.names import MODEL_LABEL
from whisper_cluster.objects import Deployment, Lease, Metadata, NetworkPolicy, Pod, Service, WhisperModelObject


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names a WhisperModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class HasMetadata(Protocol):
    """Any object of the cluster."""

    @property
    def metadata(self) -> Metadata: ...


ObjectT = TypeVar("ObjectT", bound=HasMetadata)


class Objects(Generic[ObjectT]):
    """The objects of one kind, by namespace and name."""

    def __init__(self) -> None:
        self._by_key: dict[Key, ObjectT] = {}
        self._of_model: dict[Key, set[Key]] = {}

    def get(self, key: Key) -> ObjectT | None:
        """Return the object of a name."""
        return self._by_key.get(key)

    def of(self, model: Key) -> list[ObjectT]:
        """Return the objects that carry the label of a model, by name."""
        return [self._by_key[key] for key in sorted(self._of_model.get(model, ()))]

    def keys(self) -> set[Key]:
        """Return the names of all."""
        return set(self._by_key)

    def uids(self) -> dict[Key, str]:
        """Return which object has each name."""
        return {key: one.metadata.uid for key, one in self._by_key.items()}

    def put(self, seen: ObjectT) -> bool:
        """Note an object as it is now; return whether that is news: it may be known already, or be out of date."""
        key = key_of(seen)
        known = self._by_key.get(key)
        if known is not None and not _is_newer(seen.metadata, known.metadata):
            return False
        self._drop(key)  # Its label may have been another model's.
        self._by_key[key] = seen
        model = model_of(seen)
        if model is not None:
            self._of_model.setdefault(model, set()).add(key)
        return True

    def remove(self, deleted: ObjectT) -> None:
        """Note that an object is gone; one of its name that was made since is not."""
        known = self._by_key.get(key_of(deleted))
        if known is not None and known.metadata.uid == deleted.metadata.uid:
            self._drop(key_of(deleted))

    def _drop(self, key: Key) -> None:
        gone = self._by_key.pop(key, None)
        model = model_of(gone) if gone is not None else None
        if model is not None and (siblings := self._of_model.get(model)):
            siblings.discard(key)
            if not siblings:
                del self._of_model[model]

    def replace(self, listed: Iterable[ObjectT], *, known_before: Mapping[Key, str]) -> set[Key]:
        """Take over a list; return the keys of what it lacks.

        known_before: the uids as the list was asked for; what came since then is not expected in it.
        """
        # What is known no more was seen to go after the list was made.
        seen = {key: one for one in listed if (key := key_of(one)) in self._by_key or key not in known_before}
        gone = {key for key, uid in self.uids().items() if known_before.get(key) == uid and key not in seen}
        for key in gone:
            self._drop(key)
        for one in seen.values():
            self.put(one)
        return gone


@dataclass(frozen=True, slots=True)
class Store:
    """All kinds that are watched."""

    models: Objects[WhisperModelObject]
    deployments: Objects[Deployment]
    pods: Objects[Pod]
    services: Objects[Service]
    policies: Objects[NetworkPolicy]
    leases: Objects[Lease]

    @classmethod
    def empty(cls) -> Store:
        """Return a store that has seen nothing yet."""
        return cls(Objects(), Objects(), Objects(), Objects(), Objects(), Objects())


def key_of(one: HasMetadata) -> Key:
    """Return the name of an object."""
    return Key(one.metadata.namespace, one.metadata.name)


def model_of(one: HasMetadata) -> Key | None:
    """Return the model that an object belongs to, by its label."""
    name = one.metadata.labels.get(MODEL_LABEL)
    return Key(one.metadata.namespace, name) if name else None


def _is_newer(seen: Metadata, known: Metadata) -> bool:
    """Compare versions as numbers, which they are on every API server, for all objects of a kind (KEP-5504)."""
    if not (seen.resource_version.isdigit() and known.resource_version.isdigit()):
        return True
    return int(seen.resource_version) > int(known.resource_version)
