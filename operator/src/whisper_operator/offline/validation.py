"""Validate a manifest offline as the API server and then the operator do: schema, rules, time zones, cron expressions.

Messages of the API server are used where there are some, so that people find the same sentence in both places.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

import cel
from jsonschema import Draft4Validator
from pydantic import ValidationError

from whisper_operator.offline.crd import Json, Place, schema, set_defaults
from whisper_operator.offline.metadata import OBJECT_META, generated_name, syntax_problems
from whispermodel.manifests import UnreadableManifest, manifests_in
from whispermodel.planning.schedule import ScheduleError, Timetable
from whispermodel.spec import API_VERSION, KIND, Spec


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one object. subject: its kind and name. is_ours: whether it was validated at all."""

    subject: str
    problems: tuple[str, ...] = ()
    is_ours: bool = True


def problems(manifest: Mapping[str, object]) -> list[str]:
    """Return a sentence for each problem, with its place; none: the manifest would be accepted."""
    resource = _as_stored(manifest)
    found = (
        _identity_problems(resource)
        # The rules assume that the schema holds, and the meaning assumes that the rules hold.
        or [*_unknown_fields({**resource, "status": manifest.get("status")}), *_schema_problems(resource)]
        or [*syntax_problems(cast("Json", resource["metadata"]))]
        or list(_rule_problems(resource))
        or _meaning_problems(resource)
    )
    return [printable(sentence) for sentence in found]


def verdicts(text: str) -> Iterator[Verdict]:
    """Yield the verdict on each object in a text; a text without objects is a problem."""
    try:
        manifests = manifests_in(text)
    except UnreadableManifest as error:
        yield Verdict("?", (str(error),))
        return
    for manifest in manifests:
        metadata = manifest.get("metadata")
        named = cast("Json", metadata) if isinstance(metadata, dict) else {}
        subject = printable(f"{manifest.get('kind', '?')}/{named.get('name') or named.get('generateName') or '?'}")
        yield Verdict(subject, is_ours=False) if _is_others(manifest) else Verdict(subject, tuple(problems(manifest)))


def printable(text: str) -> str:
    """Return untrusted text with its control characters escaped: a terminal would interpret them."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _is_others(manifest: Json) -> bool:
    """Return whether an object is of another kind; what is nearly a WhisperModel is one with a mistake."""
    version, kind = manifest.get("apiVersion"), manifest.get("kind")
    if not (version and isinstance(version, str) and kind and isinstance(kind, str)):
        return False
    return kind != KIND and version.partition("/")[0] != API_VERSION.partition("/")[0]


def _as_stored(manifest: Mapping[str, object]) -> Json:
    """Return what the API server would validate: without the status, which is a subresource, and with all defaults."""
    resource = copy.deepcopy({name: value for name, value in manifest.items() if name != "status"})
    set_defaults(resource, _schema())
    metadata = resource.get("metadata")
    if isinstance(metadata, dict) and (name := generated_name(cast("Json", metadata))):
        metadata["name"] = name
    return resource


@cache
def _schema() -> Json:
    """Return the schema of the whole object, including the metadata, which the CRD does not describe."""
    described = copy.deepcopy(schema())
    fields = cast("dict[str, Json]", described["properties"])
    fields["metadata"] = {"type": "object", "properties": OBJECT_META}
    return described


def _identity_problems(resource: Json) -> list[str]:
    version, kind = resource.get("apiVersion"), resource.get("kind")
    if (version, kind) != (API_VERSION, KIND):
        found = f"{version or 'no apiVersion'} and {kind or 'no kind'}"
        return [f"expected 'apiVersion: {API_VERSION}' and 'kind: {KIND}', found {found}"]
    metadata = resource.get("metadata")
    name = cast("Json", metadata).get("name") if isinstance(metadata, dict) else None
    return [] if name and isinstance(name, str) else ["metadata.name: Required value: name is required"]


def _unknown_fields(resource: Json) -> list[str]:
    places = Place("", _schema(), resource).inside()
    return [f'unknown field "{path}"' for place in places for path in place.undescribed()]


def _schema_problems(resource: Json) -> list[str]:
    return sorted(_sentence(error) for error in _validator().iter_errors(resource))


def _rule_problems(resource: Json) -> Iterator[str]:
    for place in Place("", schema(), resource).inside():
        for rule in cast("list[dict[str, str]]", place.schema.get("x-kubernetes-validations", [])):
            if not _holds(rule["rule"], place.value):
                yield f"{place.path or 'metadata.name'}: {rule['message']}"


def _meaning_problems(resource: Json) -> list[str]:
    try:
        Timetable(Spec.model_validate(resource["spec"]).schedule)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return [f"{'.'.join(['spec', *map(str, one['loc'])])}: {one['msg']}" for one in found]
    except ScheduleError as error:
        return [f"spec.schedule: {error}"]
    return []


def _holds(rule: str, value: object) -> bool:
    try:
        return _program(rule).execute({"self": value}) is True
    except (RuntimeError, ValueError, TypeError, OverflowError):
        # Such as a timestamp that does not exist: the API server rejects that too, with the rule's message.
        return False


@cache
def _program(expression: str) -> cel.Program:
    return cel.compile(expression)


class _SchemaError(Protocol):
    """jsonschema's ValidationError, whose fields are not typed."""

    validator: str
    validator_value: object
    instance: object
    absolute_path: Iterable[str | int]
    message: str


class _Validator(Protocol):
    def iter_errors(self, instance: object) -> Iterator[_SchemaError]: ...


@cache
def _validator() -> _Validator:
    return cast("_Validator", Draft4Validator(cast("Json", _in_standard_types(_schema()))))


def _in_standard_types(described: object) -> object:
    """Return the schema with Kubernetes' own int-or-string type replaced by one that any validator knows."""
    if isinstance(described, list):
        return [_in_standard_types(item) for item in cast("list[object]", described)]
    if not isinstance(described, dict):
        return described
    plain = {name: _in_standard_types(value) for name, value in cast("Json", described).items()}
    return {**plain, "type": ["integer", "string"]} if plain.get("x-kubernetes-int-or-string") else plain


_TOO_MANY = "{path}: Too many: {size}: must have at most {bound} items"
_SENTENCES = {
    "enum": "{path}: Unsupported value: {value}: supported values: {options}",
    "maxItems": _TOO_MANY,
    "maxLength": "{path}: Too long: may not be more than {bound} bytes",
    "maxProperties": _TOO_MANY,
    "maximum": "{path} in body should be less than or equal to {bound}",
    "minLength": "{path} in body should be at least {bound} chars long",
    "minimum": "{path} in body should be greater than or equal to {bound}",
    "pattern": "{path}: Invalid value: {value}: use a format like 2026-12-24T18:00:00Z",
    "required": "{path}.{missing}: Required value",
    "type": '{path} in body must be of type {bound}: "{kind}"',
}
"""The API server's: apimachinery, pkg/util/validation/field/errors.go; kube-openapi, pkg/validation/errors."""
_KINDS: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    type(None): "null",
}


def _sentence(error: _SchemaError) -> str:
    bound, value = error.validator_value, error.instance
    options = cast("list[object]", bound) if isinstance(bound, list) else [bound]
    return (
        _SENTENCES.get(error.validator, "{path}: {message}")
        .format(
            path=_path([*error.absolute_path]),
            message=error.message,
            bound=",".join(map(str, options)),
            value=json.dumps(value, default=str),
            options=", ".join(json.dumps(option) for option in options),
            size=len(value) if isinstance(value, Sized) else 0,
            kind=next((kind for python, kind in _KINDS.items() if isinstance(value, python)), "object"),
            missing=error.message.split("'")[1] if error.validator == "required" else "",
        )
        .removeprefix(".")
    )


def _path(steps: Sequence[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
