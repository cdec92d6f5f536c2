"""Who owns an object: the operator never takes over an object of somebody else, whatever its name."""

from __future__ import annotations

from whisper_cluster.names import MANAGED_BY, MODEL_LABEL, OPERATOR
from whisper_cluster.objects import Metadata
from whispermodel.spec import API_VERSION, KIND


def is_of_model(found: Metadata, name: str) -> bool:
    """Return whether an object belongs to the WhisperModel of this name.

    An object that an earlier model of that name left behind, as after an orphaning deletion, does: it is adopted.
    """
    controllers = [owner for owner in found.owner_references if owner.controller]
    if controllers:
        return all((one.api_version, one.kind, one.name) == (API_VERSION, KIND, name) for one in controllers)
    labels = found.labels
    return labels.get(MANAGED_BY) == OPERATOR and labels.get(MODEL_LABEL) == name


def has_kept(found: Metadata, given: Metadata) -> bool:
    """Return whether an object still has the owner, labels and annotations that it was applied with.

    Without its owner it would outlive the model, and a change of metadata does not raise the generation.
    """
    owners = {owner.uid for owner in found.owner_references}
    return (
        all(owner.uid in owners for owner in given.owner_references)
        and given.labels.items() <= found.labels.items()
        and given.annotations.items() <= found.annotations.items()
    )
