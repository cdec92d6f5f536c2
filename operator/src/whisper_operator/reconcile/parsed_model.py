"""A WhisperModel as read from the API server, with its spec and status parsed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from whisper_cluster.cache import key_of
from whisper_cluster.objects import WhisperModelObject
from whisper_operator.resources.identity import Identity
from whispermodel.key import Key
from whispermodel.spec import Spec
from whispermodel.status import Status


@dataclass(frozen=True, slots=True)
class ParsedModel:
    """A WhisperModel whose spec is valid."""

    resource: WhisperModelObject
    spec: Spec
    status: Status

    @classmethod
    def of(cls, resource: WhisperModelObject) -> ParsedModel:
        """Parse a WhisperModel. Raises pydantic's ValidationError if its spec is invalid."""
        return cls(resource, Spec.model_validate(resource.spec), resource.parsed_status())

    @property
    def key(self) -> Key:
        """Its namespace and name."""
        return key_of(self.resource)

    @property
    def generation(self) -> int:
        """The version of its spec."""
        return self.resource.metadata.generation

    @property
    def identity(self) -> Identity:
        """What all objects of the model have in common."""
        return Identity(self.key.namespace, self.key.name, self.resource.metadata.uid)

    def spec_since(self, now: datetime) -> datetime:
        """Return since when this version of the spec has been in effect: a new version, from now on."""
        known = self.status.observed_generation == self.generation
        return self.status.spec_since if known and self.status.spec_since else now.replace(microsecond=0)
