"""The fleet as the watches last showed it: its models, and their pods that serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import ValidationError

from whisper_cluster.cache import Objects, key_of
from whisper_cluster.objects import Pod, WhisperModelObject
from whisper_inference.errors import ServiceError
from whispermodel.key import Key
from whispermodel.spec import Spec
from whispermodel.status import Status


@dataclass(frozen=True, slots=True)
class FleetModel:
    """One WhisperModel."""

    resource: WhisperModelObject
    """As the API server has it."""
    spec: Spec | None
    """What it asks for; None: it is invalid, which its status says."""
    status: Status
    """What its operator reported last."""
    refusal: ServiceError | None = None
    """What keeps it away, where that is known in more detail than a status can hold."""

    @classmethod
    def of(cls, resource: WhisperModelObject, *, refusal: ServiceError | None = None) -> FleetModel:
        """Parse a WhisperModel."""
        try:
            spec = Spec.model_validate(resource.spec)
        except ValidationError:
            spec = None
        return cls(resource, spec, resource.parsed_status(), refusal)

    @property
    def key(self) -> Key:
        """Its namespace and name."""
        return key_of(self.resource)


@dataclass(slots=True)
class Fleet:
    """All models and their pods. Whoever watches the cluster fills the caches, and notes what has changed."""

    models: Objects[WhisperModelObject] = field(default_factory=Objects[WhisperModelObject])
    """The WhisperModels."""
    pods: Objects[Pod] = field(default_factory=Objects[Pod])
    """Their pods, those that are starting or terminating included."""
    refusals: dict[Key, ServiceError] = field(default_factory=dict[Key, ServiceError])
    """What keeps models away, where that is known here. Whoever changes it puts the model anew."""
    on_change: Callable[[Key], None] = lambda _key: None
    """Called after a model or one of its pods has changed."""
    _parsed: dict[Key, FleetModel] = field(default_factory=dict[Key, FleetModel])
    _listening: dict[Key, set[asyncio.Event]] = field(default_factory=dict[Key, set[asyncio.Event]])

    def all(self) -> list[FleetModel]:
        """Return all models, in order."""
        return [model for key in sorted(self.models.keys()) if (model := self.get(key)) is not None]

    def get(self, key: Key) -> FleetModel | None:
        """Return a model; None: there is none of this name."""
        resource = self.models.get(key)
        if resource is None:
            self._parsed.pop(key, None)
            return None
        known = self._parsed.get(key)
        if known is None or known.resource is not resource:
            known = self._parsed[key] = FleetModel.of(resource, refusal=self.refusals.get(key))
        return known

    def serving(self, key: Key) -> list[Pod]:
        """Return the pods of a model that can be sent work."""
        return [pod for pod in self.pods.of(key) if pod.serves and not pod.leaving]

    def is_staying(self, key: Key, uid: str) -> bool:
        """Return whether a pod is neither gone nor terminating."""
        return any(pod.metadata.uid == uid and not pod.leaving and not pod.ended for pod in self.pods.of(key))

    def note_change(self, key: Key) -> None:
        """Tell whoever waits for a change of a model."""
        for changed in self._listening.get(key, ()):
            changed.set()
        self.on_change(key)

    @contextmanager
    def changes(self, key: Key) -> Generator[asyncio.Event]:
        """Lend an event that is set whenever a model may have changed; its holder clears it."""
        changed = asyncio.Event()
        listening = self._listening.setdefault(key, set())
        listening.add(changed)
        try:
            yield changed
        finally:
            listening.discard(changed)
            if not listening:
                self._listening.pop(key, None)
