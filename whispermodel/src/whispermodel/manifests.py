"""Manifests as people write them, in YAML or JSON: read as kubectl reads them, into what JSON can say."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator
from typing import cast

import yaml

# PyYAML's stubs leave parts of these classes unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

_DEEPEST = 64
_MOST_VALUES = 1_000_000
"""Far above what an API server takes; a few lines of aliases of aliases come to billions."""
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep, or holds itself"


class UnreadableYaml(ValueError):
    """The text is no YAML, or not of a kind that has a JSON form; the message says where and why, in one line."""


class UnreadableManifest(ValueError):
    """The text holds no objects; the message says where it stops being YAML."""


def manifests_in(text: str) -> list[dict[str, object]]:
    """Return the objects of a text, separated by lines of --- or the items of a List. Raises UnreadableManifest."""
    try:
        documents = documents_in(text)
    except UnreadableYaml as error:
        raise UnreadableManifest(f"this is no YAML: {error}") from error
    found = [one for document in documents if document is not None for one in _objects_in(document)]
    if not found or not all(isinstance(one, dict) for one in found):
        raise UnreadableManifest("this holds no object: write apiVersion, kind, metadata and spec")
    return cast("list[dict[str, object]]", found)


def _objects_in(document: object) -> Iterator[object]:
    """Yield an object, or the items of a list of objects, as kubectl get prints several."""
    fields = cast("dict[str, object]", document) if isinstance(document, dict) else {}
    items = fields.get("items")
    if str(fields.get("kind", "")).endswith("List") and isinstance(items, list):
        for item in cast("list[object]", items):
            yield from _objects_in(item)
    else:
        yield document


def documents_in(text: str) -> list[object]:
    """Return the documents of a text, parted by lines of ---; None for an empty one. Raises UnreadableYaml."""
    try:
        loader = _Loader(text)
        documents: list[object] = []
        while loader.check_node():
            node = cast("yaml.Node", loader.get_node())
            _require_finite(node)
            documents.append(loader.construct_document(node))
        return documents
    except RecursionError:
        raise UnreadableYaml(_TOO_DEEP) from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}, " if error.problem_mark else ""
        raise UnreadableYaml(f"{line}{' '.join(str(error.problem).split())}") from None
    except yaml.YAMLError:
        raise UnreadableYaml("it holds a character that YAML does not allow") from None


class _Loader(yaml.SafeLoader):
    """Reads plain words as sigs.k8s.io/yaml does: y and on are true; times and 1:30 are texts, as JSON has neither."""

    # Not PyYAML's: below are those of goyaml.v2 (resolve.go).
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            made = super().construct_object(node, deep)
            if isinstance(made, str):
                # JSON writes some characters as two halves; one half alone is no text.
                return made.encode("utf-16", "surrogatepass").decode("utf-16")
            return made
        except (ValueError, LookupError) as error:
            # A value that its tag does not fit, such as !!bool x, or a number of thousands of digits.
            raise _wrong(node, f"a value that is no {node.tag.rpartition(':')[2]}") from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """Return the fields by their names; of a name that comes twice the last counts."""
        self.flatten_mapping(node)
        return {self._name_of(key): self.construct_object(value, deep) for key, value in node.value}

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = super().construct_yaml_float(node)
        if not math.isfinite(number):
            raise _wrong(node, "a number that JSON has not")
        return number

    def _name_of(self, key: yaml.Node) -> str:
        name = self.construct_object(key, deep=True)
        match name:
            case str():
                return name
            case bool():
                return "true" if name else "false"
            case int() | float():
                return str(name)
            case _:
                raise _wrong(key, "a field whose name is no text")


def _add_rules() -> None:
    for tag, pattern, first in (
        ("bool", "y|Y|[yY]es|YES|[oO]n|ON|[tT]rue|TRUE|n|N|[nN]o|NO|[oO]ff|OFF|[fF]alse|FALSE", "yYoOtTnNfF"),
        ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
        ("merge", "<<", "<"),
    ):
        _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), list(first))
    _Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}
    _Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
    _Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str)
    for kind in ("binary", "set", "omap", "pairs"):
        # Python has types for them, JSON has not.
        _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _Loader.construct_undefined)


_add_rules()


def _require_finite(document: yaml.Node) -> None:
    """Raise UnreadableYaml when a document is too large once its aliases and merges are written out."""
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node, depth: int) -> int:
        if depth > _DEEPEST:
            raise UnreadableYaml(_TOO_DEEP)
        match node:
            case yaml.MappingNode():
                inside = [one for pair in node.value for one in pair]
            case yaml.SequenceNode():
                inside = node.value
            case _:
                return 1
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum(size_of(one, depth + 1) for one in inside)
        return sizes[id(node)]

    if size_of(document, 0) > _MOST_VALUES:
        raise UnreadableYaml(f"its aliases stand for more than {_MOST_VALUES} values")


def _wrong(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
