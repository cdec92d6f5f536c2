"""Render JSON schemas as text: types, defaults and rules, without titles and descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_FOR_PEOPLE = {"$schema", "title", "description", "message", "messageExpression"}
_CHILDREN = {"properties", "required", "items", "additionalProperties", "x-kubernetes-validations"}
_TYPE = {"type", "enum", "const", "anyOf"}


def shape(schema: Json, definitions: Json) -> str:
    """Return a schema as one line, such as `{id: string, text?: string | null}`, followed by its other keywords."""
    schema = resolved(schema, definitions)
    words = [f"{name}={compact(value)}" for name, value in sorted(schema.items()) if _is_keyword(name, value)]
    return " ".join([_type(schema, definitions), *words])


def described(path: str, schema: Json, definitions: Json, *, required: bool = False) -> Iterator[str]:
    """Yield a line for a schema, for each of its validation rules, and recursively for its children."""
    schema = resolved(schema, definitions)
    own = {name: value for name, value in schema.items() if name not in _CHILDREN or value is False}
    yield f"{path}: {'required ' if required else ''}{shape(own, definitions)}"
    for rule in schema.get("x-kubernetes-validations", ()):
        rest = {name: value for name, value in rule.items() if name not in {"rule", *_FOR_PEOPLE}}
        yield f"{path} rule: {rule['rule']}{f' {compact(rest)}' if rest else ''}"
    for name, child in schema.get("properties", {}).items():
        yield from described(f"{path}.{name}", child, definitions, required=name in schema.get("required", ()))
    for keyword, step in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(keyword), dict):
            yield from described(path + step, schema[keyword], definitions)


def fields(schema: Json, definitions: Json) -> dict[str, str]:
    """Return the shape of each field of an object by name, with `?` after the names of optional fields."""
    required = schema.get("required", ())
    return {
        name if name in required else f"{name}?": shape(child, definitions)
        for name, child in sorted(schema.get("properties", {}).items())
    }


def resolved(schema: Json, definitions: Json) -> Json:
    """Return a schema merged with the one that it refers to; its own keywords take precedence."""
    if "$ref" not in schema:
        return schema
    own = {name: value for name, value in schema.items() if name != "$ref"}
    return {**resolved(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions), **own}


def compact(value: object) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _is_keyword(name: str, value: object) -> bool:
    return name not in _FOR_PEOPLE | _TYPE and (name not in _CHILDREN or value is False)


def _type(schema: Json, definitions: Json) -> str:
    match schema:
        case {"anyOf": options}:
            return " | ".join(shape(option, definitions) for option in options)
        case {"const": value}:
            return compact(value)
        case {"enum": values}:
            return " | ".join(compact(value) for value in values)
        case {"items": items}:
            return f"[{shape(items, definitions)}]"
        case {"properties": properties} if properties:
            return f"{{{', '.join(f'{name}: {text}' for name, text in fields(schema, definitions).items())}}}"
        case {"additionalProperties": dict(values)}:
            return f"{{*: {shape(values, definitions)}}}"
        case {"type": list(names)}:
            return " | ".join(names)
        case _:
            return schema.get("type", "any")
