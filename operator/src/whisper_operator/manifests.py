"""Manifests as people write them: YAML or JSON, read as kubectl reads it."""

from __future__ import annotations

from typing import cast

import yaml

from whisper_operator.crd import Json


class _Loader(yaml.SafeLoader):
    """Leaves times as the texts that they are, which kubectl does too: the API server's JSON has no times."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class UnreadableManifest(ValueError):
    """The text holds no objects; the message says where it stops being YAML."""


def manifests_in(text: str) -> list[Json]:
    """Return the objects of a text, of which several are parted by lines of ---. Raises UnreadableManifest."""
    try:
        documents = cast("list[object]", list(yaml.load_all(text, Loader=_Loader)))
    except yaml.YAMLError as error:
        raise UnreadableManifest(f"this is no YAML: {' '.join(str(error).split())}") from error
    found = [document for document in documents if document is not None]
    if not found or not all(isinstance(document, dict) for document in found):
        raise UnreadableManifest("this holds no object: write apiVersion, kind, metadata and spec")
    return cast("list[Json]", found)
