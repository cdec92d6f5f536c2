"""Manifests as people write them: YAML or JSON, read as kubectl reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

import yaml

from whisper_operator.crd import Json

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Reads plain words as kubectl does: times and 1:30 are texts, since JSON has neither, and y is yes."""

    bool_values: ClassVar[dict[str, bool]] = {**yaml.SafeLoader.bool_values, "y": True, "n": False}

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: tuple[bool, bool]) -> str:
        """Return the tag of a node; one that is written without quotes goes by how it looks."""
        tag = cast("str", super().resolve(kind, value, implicit))  # pyright: ignore[reportUnknownMemberType]
        if kind is not yaml.ScalarNode or value is None or not implicit[0]:
            return tag
        if value in ("y", "Y", "n", "N"):
            return f"{_TAG}bool"
        # PyYAML reads 1:30 as 90, to the base of 60.
        is_text = tag == f"{_TAG}timestamp" or (tag in (f"{_TAG}int", f"{_TAG}float") and ":" in value)
        return f"{_TAG}str" if is_text else tag


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
    """Return the objects of a text, parted by lines of --- or the items of a List. Raises UnreadableManifest."""
    try:
        documents = cast("list[object]", list(yaml.load_all(text, Loader=_Loader)))
    except (yaml.YAMLError, ValueError) as error:
        # The latter for a value that its tag does not fit, such as a number of thousands of digits.
        raise UnreadableManifest(f"this is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UnreadableManifest(_TOO_DEEP) from None
    for document in documents:
        _require_finite(document)
    found = [one for document in documents if document is not None for one in _objects_in(document)]
    if not found or not all(isinstance(one, dict) for one in found):
        raise UnreadableManifest("this holds no object: write apiVersion, kind, metadata and spec")
    return cast("list[Json]", found)


def _objects_in(document: object) -> Iterator[object]:
    """Yield an object, or the items of a list of objects, as kubectl get prints several."""
    fields = cast("Json", document) if isinstance(document, dict) else {}
    items = fields.get("items")
    if str(fields.get("kind", "")).endswith("List") and isinstance(items, list):
        for item in cast("list[object]", items):
            yield from _objects_in(item)
    else:
        yield document
