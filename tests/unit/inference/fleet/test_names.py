"""Which WhisperModel a client means by a name."""

from __future__ import annotations

import pytest

from whisper_cluster.objects import Metadata, WhisperModelObject
from whisper_inference.errors import ModelAmbiguous, ModelNotFound, ModelNotNamed
from whisper_inference.fleet.fleet import Fleet
from whisper_inference.fleet.names import find_model
from whispermodel.key import Key

OWN = "speech"


def fleet_of(*models: tuple[str, str, str, list[str]]) -> Fleet:
    """Return a fleet of models: namespace, name, size, aliases."""
    fleet = Fleet()
    for namespace, name, size, aliases in models:
        metadata = Metadata(name=name, namespace=namespace, uid=f"{namespace}-{name}", resource_version="1")
        fleet.models.put(WhisperModelObject(metadata=metadata, spec={"model": {"size": size}, "aliases": [*aliases]}))
    return fleet


FLEET = fleet_of(
    (OWN, "dictation", "base", ["notes"]),
    (OWN, "meetings", "large-v3", ["notes-2"]),
    ("other", "dictation", "small", ["notes"]),
    ("other", "calls", "base", ["phone"]),
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        pytest.param("dictation", Key(OWN, "dictation"), id="a name in the own namespace"),
        pytest.param("other/dictation", Key("other", "dictation"), id="a name elsewhere"),
        pytest.param("phone", Key("other", "calls"), id="an alias elsewhere"),
        pytest.param("notes", Key(OWN, "dictation"), id="an alias in both: the own namespace first"),
        pytest.param("openai/whisper-large-v3", Key(OWN, "meetings"), id="a published name"),
        pytest.param("large", Key(OWN, "meetings"), id="a short name of its size"),
        pytest.param("base", Key(OWN, "dictation"), id="a size in both: the own namespace first"),
        pytest.param("Systran/faster-whisper-small", Key("other", "dictation"), id="a size elsewhere"),
    ],
)
def test_name_stands_for_a_model(name: str, meant: Key) -> None:
    assert find_model(FLEET, name, own_namespace=OWN) == meant


@pytest.mark.parametrize("name", ["gpt-4o", "calls", "other/meetings", "a/b/c", "/", "tiny"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ModelNotFound):
        find_model(FLEET, name, own_namespace=OWN)


def test_name_of_several_models_is_refused_with_their_names() -> None:
    fleet = fleet_of(("a", "one", "base", []), ("b", "two", "base", []))
    with pytest.raises(ModelAmbiguous) as refused:
        find_model(fleet, "whisper-base", own_namespace=OWN)
    assert refused.value.params["models"] == "a/one, b/two"


@pytest.mark.parametrize("name", [None, "", "whisper-1"])
def test_no_name_stands_for_the_only_model(name: str | None) -> None:
    assert find_model(fleet_of(("a", "one", "base", [])), name, own_namespace=OWN) == Key("a", "one")
    own = fleet_of(("a", "one", "base", []), (OWN, "two", "base", []))
    assert find_model(own, name, own_namespace=OWN) == Key(OWN, "two")
    with pytest.raises(ModelNotNamed):
        find_model(FLEET, name, own_namespace=OWN)
    with pytest.raises(ModelNotFound):
        find_model(Fleet(), name, own_namespace=OWN)
