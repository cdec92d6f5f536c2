"""What one reconciliation is about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from whisper_cluster.cache import Key, key_of
from whisper_cluster.objects import WhisperModelObject
from whisper_operator.reconcile.memory import ModelMemory
from whisper_operator.resources.identity import Identity
from whispermodel.spec import Spec
from whispermodel.status import Status


@dataclass(frozen=True, slots=True)
class Subject:
    """A WhisperModel as it was asked for and last reported, with what is remembered of it."""

    model: WhisperModelObject
    spec: Spec
    status: Status
    memory: ModelMemory

    @property
    def key(self) -> Key:
        """Its name."""
        return key_of(self.model)

    @property
    def identity(self) -> Identity:
        """What all its objects have in common."""
        return Identity(self.key.namespace, self.key.name, self.model.metadata.uid)

    def spec_since(self, now: datetime) -> datetime:
        """Return since when this version of the spec is obeyed; one that is new is obeyed from now on."""
        known = self.status.observed_generation == self.model.metadata.generation
        return self.status.spec_since if known and self.status.spec_since else now.replace(microsecond=0)
