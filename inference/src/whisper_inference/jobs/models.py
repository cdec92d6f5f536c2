"""The models that a request can name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from whisper_inference.errors import ModelNotFound
from whisper_inference.jobs.model_queue import ModelQueue
from whispermodel.catalog import names_of_size
from whispermodel.key import Key
from whispermodel.states import State

ANY_MODEL = "whisper-1"
"""OpenAI's name for its only model: here, the only one that is served."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as GET /v1/models lists it."""

    name: str
    """What clients call it."""
    aliases: tuple[str, ...]
    """What else they may call it."""
    engine: str
    """What runs it, such as faster-whisper."""
    state: State
    """Where it stands."""


class Models(Protocol):
    """The served models, by the names that clients use."""

    def find(self, name: str | None) -> ModelQueue:
        """Return the model of a name; None: the only one. Raises ModelNotFound, ModelNotNamed."""
        ...

    def at_headers(self, name: str | None) -> ModelQueue | None:
        """Return the model that a request's headers decide on; None: its form may name one. Raises ModelNotFound."""
        ...

    def queue(self, key: Key) -> ModelQueue:
        """Return the model of a job. Raises ModelNotFound when it is gone."""
        ...

    def shown(self, key: Key) -> str | None:
        """Return what clients call a model; None: it has no name."""
        ...

    def listed(self) -> Sequence[ListedModel]:
        """Return all models, by name."""
        ...

    @property
    def max_audio_bytes(self) -> int:
        """The size of the largest upload that any of them accepts."""
        ...


@dataclass(frozen=True, slots=True)
class OneModel:
    """The only model of a server, which its size names."""

    one: ModelQueue
    """Its way in."""

    def find(self, name: str | None) -> ModelQueue:
        """Return the model. Raises ModelNotFound for another one's name."""
        if name and name != ANY_MODEL:
            facts = self.one.model.facts()
            if name not in names_of_size(facts.name):
                raise ModelNotFound(model=name[:64])
        return self.one

    def at_headers(self, name: str | None) -> ModelQueue:
        """Return the model. Raises ModelNotFound for another one's name."""
        return self.find(name)

    def queue(self, key: Key) -> ModelQueue:  # noqa: ARG002 (there is one)
        """Return the model."""
        return self.one

    def shown(self, key: Key) -> str | None:  # noqa: ARG002 (there is one)
        """Return None: the only model needs no name."""
        return None

    def listed(self) -> Sequence[ListedModel]:
        """Return the model."""
        facts = self.one.model.facts()
        aliases = tuple(name for name in names_of_size(facts.name) if name != facts.name)
        return (ListedModel(facts.name, aliases, facts.engine, facts.state),)

    @property
    def max_audio_bytes(self) -> int:
        """The size of the largest upload that it accepts."""
        return self.one.limits.max_audio_bytes
