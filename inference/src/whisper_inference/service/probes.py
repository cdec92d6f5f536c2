"""What the health routes report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from whisper_inference.jobs.model_queue import ModelQueue
from whispermodel.states import State


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """The answer to a probe."""

    status: str
    """In one word."""
    detail: str | None = None
    """What is waited for, or what is wrong although the probe passes."""
    passed: bool = True
    """Whether the probe passes."""


class Probes(Protocol):
    """Answers the health routes; nothing here waits or loads a model."""

    def loaded(self) -> bool:
        """Return whether a model is in memory."""
        ...

    def ready(self) -> ProbeFinding:
        """Return whether work is accepted."""
        ...

    def started(self) -> ProbeFinding:
        """Return whether the start has ended."""
        ...


@dataclass(frozen=True, slots=True)
class ServerProbes:
    """The probes of a server with one model."""

    queue: ModelQueue
    """The model's way in."""

    def loaded(self) -> bool:
        """Return whether the model is in memory."""
        return self.queue.model.facts().state is State.LOADED

    def ready(self) -> ProbeFinding:
        """Return whether work is accepted; an unloaded model is ready, since work loads it."""
        if not self.queue.jobs.accepting:
            return ProbeFinding("stopping", "The server is shutting down.", passed=False)
        if refusal := self.queue.model.refusal():
            return ProbeFinding("refusing", str(refusal), passed=False)
        return ProbeFinding("ok")

    def started(self) -> ProbeFinding:
        """Return whether the first load has ended."""
        facts = self.queue.model.facts()
        if not facts.started:
            return ProbeFinding("starting", "The model is being loaded.", passed=False)
        return ProbeFinding("ok", str(facts.failure) if facts.failure else None)
