"""The objects in manifests as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from whisper_operator.crd import Json
from whispermodel.manifests import UnreadableYaml, documents_in


class UnreadableManifest(ValueError):
    """The text holds no objects; the message says where it stops being YAML."""


def manifests_in(text: str) -> list[Json]:
    """Return the objects of a text, parted by lines of --- or the items of a List. Raises UnreadableManifest."""
    try:
        documents = documents_in(text)
    except UnreadableYaml as error:
        raise UnreadableManifest(f"this is no YAML: {error}") from error
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
