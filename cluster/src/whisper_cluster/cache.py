"""A cache of the cluster's objects as the watches last showed them, by key.

A watch can miss a deletion while it is disconnected, so a resync replaces the contents with those of a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from whisper_cluster.leases import Lease
from whisper_cluster.names import MODEL_LABEL
from whisper_cluster.objects import Deployment, Metadata, NetworkPolicy, Pod, Service, WhisperModelObject
from whispermodel.key import Key


class HasMetadata(Protocol):
    """Any object in the cluster."""

    @property
    def metadata(self) -> Metadata: ...


ObjectT = TypeVar("ObjectT", bound=HasMetadata)


class Objects(Generic[ObjectT]):
    """The objects of one kind, by namespace and name."""

    def __init__(self) -> None:
        self._by_key: dict[Key, ObjectT] = {}
        self._of_model: dict[Key, set[Key]] = {}

    def get(self, key: Key) -> ObjectT | None:
        """Return the object with this name."""
        return self._by_key.get(key)

    def of(self, model: Key) -> list[ObjectT]:
        """Return the objects with the label of a model, sorted by name."""
        return [self._by_key[key] for key in sorted(self._of_model.get(model, ()))]

    def all(self) -> Iterable[ObjectT]:
        """Return all objects."""
        return self._by_key.values()

    def keys(self) -> set[Key]:
        """Return the names of all objects."""
        return set(self._by_key)

    def uids(self) -> dict[Key, str]:
        """Return the uid of each object by its name."""
        return {key: one.metadata.uid for key, one in self._by_key.items()}

    def put(self, seen: ObjectT) -> bool:
        """Store an object; return False if this version or a newer one is stored already."""
        key = key_of(seen)
        known = self._by_key.get(key)
        if known is not None and not _is_newer(seen.metadata, known.metadata):
            return False
        self._drop(key)  # Its label may have changed to another model.
        self._by_key[key] = seen
        model = model_of(seen)
        if model is not None:
            self._of_model.setdefault(model, set()).add(key)
        return True

    def remove(self, deleted: ObjectT) -> None:
        """Remove a deleted object; an object of the same name that was created since stays."""
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
        """Replace the contents with a list; return the keys of objects that are not in it.

        known_before: the uids when the list was requested. Objects that came since are kept.
        """
        # An object that was known then and is not any more was deleted after the list was made.
        seen = {key: one for one in listed if (key := key_of(one)) in self._by_key or key not in known_before}
        gone = {key for key, uid in self.uids().items() if known_before.get(key) == uid and key not in seen}
        for key in gone:
            self._drop(key)
        for one in seen.values():
            self.put(one)
        return gone


@dataclass(frozen=True, slots=True)
class Store:
    """The objects of all watched kinds."""

    models: Objects[WhisperModelObject]
    """The WhisperModels."""
    deployments: Objects[Deployment]
    """Of models; the same holds for the kinds below."""
    pods: Objects[Pod]
    """Terminating and ended ones included."""
    services: Objects[Service]
    """One for each model."""
    policies: Objects[NetworkPolicy]
    """One for each model, if pods are restricted to certain peers."""
    leases: Objects[Lease]
    """The demand Leases of gateways, expired ones included."""

    @classmethod
    def empty(cls) -> Store:
        """Return an empty store."""
        return cls(Objects(), Objects(), Objects(), Objects(), Objects(), Objects())


def key_of(one: HasMetadata) -> Key:
    """Return the key of an object."""
    return Key(one.metadata.namespace, one.metadata.name)


def model_of(one: HasMetadata) -> Key | None:
    """Return the model that an object belongs to, by its label."""
    name = one.metadata.labels.get(MODEL_LABEL)
    return Key(one.metadata.namespace, name) if name else None


def _is_newer(seen: Metadata, known: Metadata) -> bool:
    """Compare resource versions as numbers, which KEP-5504 guarantees for all objects of a kind."""
    if not (seen.resource_version.isdigit() and known.resource_version.isdigit()):
        return True
    return int(seen.resource_version) > int(known.resource_version)
