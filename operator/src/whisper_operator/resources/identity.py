"""What all objects of one WhisperModel have in common: name, labels and owner."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from whisper_cluster.names import MANAGED_BY, MODEL_LABEL, OPERATOR
from whispermodel.spec import API_VERSION, KIND


@dataclass(frozen=True, slots=True)
class Identity:
    """The WhisperModel that objects belong to."""

    namespace: str
    name: str
    uid: str

    @property
    def selector(self) -> dict[str, JsonValue]:
        """The labels that select the pods; those of a Deployment are immutable."""
        return {"app.kubernetes.io/name": "whisper-inference", MODEL_LABEL: self.name}

    @property
    def labels(self) -> dict[str, JsonValue]:
        """The labels of every object."""
        return {**self.selector, MANAGED_BY: OPERATOR}

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """The metadata of an object with the model's name, which the garbage collector deletes with the model.

        blockOwnerDeletion is left out: setting it requires a right on the owner's finalizers.
        """
        owner: dict[str, JsonValue] = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }
        return {"name": self.name, "namespace": self.namespace, "labels": self.labels, "ownerReferences": [owner]}
