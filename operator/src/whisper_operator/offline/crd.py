"""The CustomResourceDefinition of WhisperModels, as shipped with the operator."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import cast

import yaml

Json = dict[str, object]


@cache
def crd() -> Json:
    """Return crds/whispermodels.yaml; the file in this package is a link to it."""
    text = files("whisper_operator.offline").joinpath("whispermodels.yaml").read_text(encoding="utf-8")
    return cast("Json", yaml.safe_load(text))


@cache
def schema() -> Json:
    """Return the schema that the API server validates WhisperModels against."""
    [version] = cast("list[Json]", cast("Json", crd()["spec"])["versions"])
    return cast("Json", cast("Json", version["schema"])["openAPIV3Schema"])


def set_defaults(value: object, described: Json) -> None:
    """Set the defaults of absent fields in place. As on the API server, null means absent."""
    if isinstance(value, list):
        for item in cast("list[object]", value):
            set_defaults(item, cast("Json", described.get("items", {})))
    if not isinstance(value, dict):
        return
    fields, known = cast("Json", value), cast("dict[str, Json]", described.get("properties", {}))
    for name in [name for name, field in fields.items() if field is None]:
        if name in known or "additionalProperties" in described:
            del fields[name]
    for name, child in known.items():
        if name not in fields and "default" in child:
            fields[name] = copy.deepcopy(child["default"])
        set_defaults(fields.get(name), child)


@dataclass(frozen=True, slots=True)
class Place:
    """A value in a manifest with its schema. path: as people write it, such as spec.schedule.entries[0].cron."""

    path: str
    schema: Json
    value: object

    def inside(self) -> Iterator[Place]:
        """Yield the value and everything in it that the schema describes, outermost first."""
        yield self
        for child in self._children():
            yield from child.inside()

    def undescribed(self) -> list[str]:
        """Return the paths of fields that are not in the schema."""
        if not isinstance(self.value, dict) or not self._is_closed:
            return []
        return [self._path_of(name) for name in cast("Json", self.value) if name not in self._properties]

    def _children(self) -> Iterator[Place]:
        match self.value:
            case dict():
                for name, value in cast("Json", self.value).items():
                    described = self._properties.get(name, self.schema.get("additionalProperties"))
                    if described is not None:
                        yield Place(self._path_of(name), cast("Json", described), value)
            case list():
                for index, value in enumerate(cast("list[object]", self.value)):
                    yield Place(f"{self.path}[{index}]", cast("Json", self.schema.get("items", {})), value)
            case _:
                pass

    @property
    def _properties(self) -> Json:
        return cast("Json", self.schema.get("properties", {}))

    @property
    def _is_closed(self) -> bool:
        return bool(self._properties) and "x-kubernetes-preserve-unknown-fields" not in self.schema

    def _path_of(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name
