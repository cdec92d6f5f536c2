"""The WhisperModels as requests name them, each with its own queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from whisper_inference.errors import ClusterUnreachable, ModelNotFound
from whisper_inference.fleet.fleet import Fleet
from whisper_inference.fleet.names import aliases_of, find_model, shown
from whisper_inference.jobs.limits import Limits
from whisper_inference.jobs.model_queue import ModelQueue
from whisper_inference.jobs.models import ListedModel
from whispermodel.key import Key
from whispermodel.spec import Spec
from whispermodel.states import State


@dataclass(slots=True, kw_only=True)
class FleetModels:
    """The models of a gateway."""

    fleet: Fleet
    """Where they are seen."""
    own_namespace: str
    """The namespace whose models are named without it."""
    limits: Limits
    """What clients may ask for where a model's spec sets nothing else."""
    stored_limits: dict[Key, int]
    """The quota's limits of single models, in bytes; kept up to date with their specs."""
    make_queue: Callable[[Key, Limits], ModelQueue]
    """Makes the queue of a model."""
    is_known: Callable[[], bool] = lambda: True
    """Whether the list of models has arrived: until then none is missing."""
    _queues: dict[Key, ModelQueue] = field(default_factory=dict[Key, ModelQueue])

    @property
    def max_audio_bytes(self) -> int:
        """The size of the largest upload that any of them accepts."""
        return self.limits.max_audio_bytes

    def find(self, name: str | None) -> ModelQueue:
        """Return the model of a name; None: the only one.

        Raises ModelNotFound, ModelNotNamed, ModelAmbiguous, ClusterUnreachable.
        """
        self._require_known()
        return self.queue(find_model(self.fleet, name, own_namespace=self.own_namespace))

    def at_headers(self, name: str | None) -> ModelQueue | None:
        """Return the model of a name; None: the form may name one, and until then no other must be woken."""
        return self.find(name) if name else None

    def shown(self, key: Key) -> str:
        """Return what clients call a model."""
        return shown(key, self.own_namespace)

    def listed(self) -> Sequence[ListedModel]:
        """Return all models, by name. Raises ClusterUnreachable."""
        self._require_known()
        return [
            ListedModel(
                name=shown(model.key, self.own_namespace),
                aliases=aliases_of(model),
                engine=model.spec.model.engine.value if model.spec else "unknown",
                state=model.status.state or State.ZERO,
            )
            for model in self.fleet.all()
        ]

    def queue(self, key: Key) -> ModelQueue:
        """Return the queue of a model, with the limits that its spec sets now. Raises ModelNotFound when it is gone."""
        if self.fleet.models.get(key) is None:
            raise ModelNotFound(model=shown(key, self.own_namespace))
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = self.make_queue(key, _copy(self.limits))
        model = self.fleet.get(key)
        if model is not None and model.spec is not None:
            _apply(model.spec, queue.limits, self.limits)
            self._limit_stored_bytes(key, model.spec)
        return queue

    def _require_known(self) -> None:
        if not self.is_known():
            raise ClusterUnreachable(reason="the list of WhisperModels has not arrived yet")

    def forget(self, key: Key) -> None:
        """Forget the queue of a model that was deleted."""
        self._queues.pop(key, None)
        self.stored_limits.pop(key, None)

    def _limit_stored_bytes(self, key: Key, spec: Spec) -> None:
        if "max_audio_bytes" in spec.queue.model_fields_set:
            self.stored_limits[key] = spec.queue.max_audio_bytes
        else:
            self.stored_limits.pop(key, None)


def _copy(limits: Limits) -> Limits:
    return Limits(limits.max_waiting, limits.max_wait, limits.max_audio_bytes, limits.max_audio_seconds)


def _apply(spec: Spec, limits: Limits, defaults: Limits) -> None:
    given = spec.queue.model_fields_set
    limits.max_waiting = spec.queue.max_waiting if "max_waiting" in given else defaults.max_waiting
    limits.max_wait = spec.queue.max_wait if "max_wait" in given else defaults.max_wait
