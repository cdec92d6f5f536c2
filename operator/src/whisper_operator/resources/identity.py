"""What all objects of one WhisperModel have in common: names, labels, and the owner that they end with."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from whisper_cluster.names import MANAGED_BY, MODEL_LABEL, OPERATOR
from whispermodel.spec import API_VERSION, KIND


@dataclass(frozen=True, slots=True)
class Identity:
    """A WhisperModel's own."""

    namespace: str
    name: str
    uid: str

    @property
    def selector(self) -> dict[str, JsonValue]:
        """Labels by which the pods are found; a Deployment's can never change."""
        return {"app.kubernetes.io/name": "whisper-inference", MODEL_LABEL: self.name}

    @property
    def labels(self) -> dict[str, JsonValue]:
        """Labels of every object."""
        return {**self.selector, MANAGED_BY: OPERATOR}

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """The metadata of an object of the model's own name, which the garbage collector ends with the model.

        blockOwnerDeletion is left out: setting it needs a right on the owner's finalizers.
        """
        owner: dict[str, JsonValue] = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }
        return {"name": self.name, "namespace": self.namespace, "labels": self.labels, "ownerReferences": [owner]}
