"""Whose an object is: what is somebody else's is never taken over, whatever its name."""

from __future__ import annotations

from whisper_cluster.names import MANAGED_BY, MODEL_LABEL, OPERATOR
from whisper_cluster.objects import Metadata
from whispermodel.spec import API_VERSION, KIND


def is_of_model(found: Metadata, name: str) -> bool:
    """Tell whether a Deployment or Service is a WhisperModel's of this name.

    What an earlier model of the name left behind, as after an orphaning deletion, is: it is taken up again.
    """
    controllers = [owner for owner in found.owner_references if owner.controller]
    if controllers:
        return all((one.api_version, one.kind, one.name) == (API_VERSION, KIND, name) for one in controllers)
    labels = found.labels
    return labels.get(MANAGED_BY) == OPERATOR and labels.get(MODEL_LABEL) == name


def has_kept(found: Metadata, given: Metadata) -> bool:
    """Tell whether an object still carries the owner, labels and annotations that it was given.

    Without its owner, it would outlive it; and no change of metadata raises the generation.
    """
    owners = {owner.uid for owner in found.owner_references}
    return (
        all(owner.uid in owners for owner in given.owner_references)
        and given.labels.items() <= found.labels.items()
        and given.annotations.items() <= found.annotations.items()
    )
