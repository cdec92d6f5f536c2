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


_DEEPEST = 64
_TOO_DEEP = f"this is nested more than {_DEEPEST} levels deep, or holds itself"
_MOST_VALUES = 1_000_000
"""Far above what an API server takes; a few lines of aliases of aliases come to billions."""


def _require_finite(document: object) -> None:
    """Raise UnreadableManifest when a document is too large once its aliases are written out."""
    sizes: dict[int, int] = {}

    def size_of(value: object, depth: int) -> int:
        if depth > _DEEPEST:
            raise UnreadableManifest(_TOO_DEEP)
        match value:
            case dict():
                inside = list(cast("Json", value).values())
            case list():
                inside = cast("list[object]", value)
            case _:
                return 1
        identity = id(cast("object", value))
        if identity not in sizes:
            sizes[identity] = 1 + sum(size_of(one, depth + 1) for one in inside)
        return sizes[identity]

    if size_of(document, 0) > _MOST_VALUES:
        raise UnreadableManifest(f"its aliases stand for more than {_MOST_VALUES} values")


def manifests_in(text: str) -> list[Json]:
    """Return the objects of a text, of which several are parted by lines of ---. Raises UnreadableManifest."""
    try:
        documents = cast("list[object]", list(yaml.load_all(text, Loader=_Loader)))
    except (yaml.YAMLError, ValueError) as error:
        # The latter for a value that its tag does not fit, such as a number of thousands of digits.
        raise UnreadableManifest(f"this is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UnreadableManifest(_TOO_DEEP) from None
    for document in documents:
        _require_finite(document)
    found = [document for document in documents if document is not None]
    if not found or not all(isinstance(document, dict) for document in found):
        raise UnreadableManifest("this holds no object: write apiVersion, kind, metadata and spec")
    return cast("list[Json]", found)
