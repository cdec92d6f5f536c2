"""The rules for an object's metadata: the API server's own ObjectMeta, which a CRD's schema does not contain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import cast

Json = dict[str, object]

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_TIME: Json = {
    "type": "string",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$",
}
_YES_OR_NO: Json = {"type": "boolean"}
_TEXTS: Json = {"type": "object", "additionalProperties": _TEXT}
_FIELD: Json = {"type": "string", "minLength": 1}
_OWNER: Json = {
    "type": "object",
    "required": ["apiVersion", "kind", "name", "uid"],
    "properties": {
        **dict.fromkeys(("apiVersion", "kind", "name", "uid"), _FIELD),
        **dict.fromkeys(("controller", "blockOwnerDeletion"), _YES_OR_NO),
    },
}
_MANAGER: Json = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("manager", "operation", "apiVersion", "fieldsType", "subresource"), _TEXT),
        "time": _TIME,
        "fieldsV1": {"type": "object"},
    },
}
OBJECT_META: Json = {
    **dict.fromkeys(("generateName", "name", "namespace", "resourceVersion", "selfLink", "uid"), _TEXT),
    **dict.fromkeys(("deletionGracePeriodSeconds", "generation"), _NUMBER),
    **dict.fromkeys(("creationTimestamp", "deletionTimestamp"), _TIME),
    **dict.fromkeys(("annotations", "labels"), _TEXTS),
    "finalizers": {"type": "array", "items": _TEXT},
    "managedFields": {"type": "array", "items": _MANAGER},
    "ownerReferences": {"type": "array", "items": _OWNER},
}
"""The schema of ObjectMeta (apimachinery, pkg/apis/meta/v1/types.go)."""

_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ANNOTATIONS_BYTES = 256 * 1024
_GENERATED = "xxxxx"
"""As long as the suffix that the API server appends to a truncated generateName (apiserver, pkg/storage/names)."""
_LONGEST_GENERATED = 63 - len(_GENERATED)
_VALUE_HINT = "use letters, digits, '-', '_' or '.', at most 63 characters"
_KEY_HINT = f"{_VALUE_HINT}, optionally after a domain and '/'"


def generated_name(metadata: Mapping[str, object]) -> str | None:
    """Return a name like the API server would generate, if the object has a generateName and no name."""
    prefix = metadata.get("generateName")
    if metadata.get("name") or not prefix or not isinstance(prefix, str):
        return None
    return prefix[:_LONGEST_GENERATED] + _GENERATED


def syntax_problems(metadata: Mapping[str, object]) -> Iterator[str]:
    """Yield a sentence for each value that has the right type but that the API server rejects nevertheless."""
    namespace = metadata.get("namespace")
    if namespace and not _NAMESPACE.fullmatch(cast("str", namespace)):
        yield f"metadata.namespace: Invalid value: {_quoted(namespace)}: use lower-case letters, digits and '-'"
    labels = cast("dict[str, str]", metadata.get("labels") or {})
    annotations = cast("dict[str, str]", metadata.get("annotations") or {})
    # The API server allows capital letters in the domain of an annotation's key, but not of a label's.
    keys = [("labels", key, key) for key in labels] + [("annotations", key, key.lower()) for key in annotations]
    keys += [("finalizers", name, name) for name in cast("list[str]", metadata.get("finalizers") or [])]
    for field, key, checked in keys:
        if not _is_qualified(checked):
            yield f"metadata.{field}: Invalid value: {_quoted(key)}: {_KEY_HINT}"
    for value in labels.values():
        if value and not _WORD.fullmatch(value):
            yield f"metadata.labels: Invalid value: {_quoted(value)}: {_VALUE_HINT}"
    if sum(len(text.encode()) for pair in annotations.items() for text in pair) > _ANNOTATIONS_BYTES:
        yield f"metadata.annotations: Too long: may not be more than {_ANNOTATIONS_BYTES} bytes"


def _is_qualified(name: str) -> bool:
    domain, slash, word = name.rpartition("/")
    return bool(_WORD.fullmatch(word)) and (not slash or (len(domain) <= 253 and bool(_SUBDOMAIN.fullmatch(domain))))


def _quoted(value: object) -> str:
    return f'"{value}"'
