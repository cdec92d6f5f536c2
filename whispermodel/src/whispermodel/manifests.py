"""Read manifests in YAML or JSON as kubectl reads them, into values that JSON can express."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator
from typing import cast

import yaml

# PyYAML's stubs leave parts of these classes untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000
"""Far above what an API server accepts; a few lines of nested aliases expand to billions."""
_TOO_DEEP = f"nested more than {_MAX_DEPTH} levels deep, or contains itself"


class UnreadableYaml(ValueError):
    """The text is not valid YAML, or has no JSON form; the message says where and why, in one line."""


class UnreadableManifest(ValueError):
    """The text contains no objects, or is not valid YAML; the message says where and why."""


def manifests_in(text: str) -> list[dict[str, object]]:
    """Return the objects in a text, separated by `---` or as items of a List. Raises UnreadableManifest."""
    try:
        documents = documents_in(text)
    except UnreadableYaml as error:
        raise UnreadableManifest(f"not valid YAML: {error}") from error
    found = [one for document in documents if document is not None for one in _objects_in(document)]
    if not found or not all(isinstance(one, dict) for one in found):
        raise UnreadableManifest("contains no object: write apiVersion, kind, metadata and spec")
    return cast("list[dict[str, object]]", found)


def _objects_in(document: object) -> Iterator[object]:
    """Yield an object, or the items of a list of objects such as `kubectl get` prints."""
    fields = cast("dict[str, object]", document) if isinstance(document, dict) else {}
    items = fields.get("items")
    if str(fields.get("kind", "")).endswith("List") and isinstance(items, list):
        for item in cast("list[object]", items):
            yield from _objects_in(item)
    else:
        yield document


def documents_in(text: str) -> list[object]:
    """Return the documents in a text, separated by `---`; None for an empty one. Raises UnreadableYaml."""
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
        raise UnreadableYaml("contains a character that YAML does not allow") from None


class _Loader(yaml.SafeLoader):
    """Read scalars as sigs.k8s.io/yaml does: y and on are true; times and 1:30 are strings, as JSON has neither."""

    # Without PyYAML's own: _add_rules adds those of goyaml.v2 (resolve.go).
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            made = super().construct_object(node, deep)
            if isinstance(made, str):
                # JSON escapes some characters as surrogate pairs; one surrogate alone is not valid text.
                return made.encode("utf-16", "surrogatepass").decode("utf-16")
            return made
        except (ValueError, LookupError) as error:
            # A value that does not match its tag, such as !!bool x, or a number with thousands of digits.
            raise _problem_at(node, f"not a valid {node.tag.rpartition(':')[2]}") from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """Return the fields by name; if a name occurs twice, the last value wins."""
        self.flatten_mapping(node)
        return {self._name_of(key): self.construct_object(value, deep) for key, value in node.value}

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = super().construct_yaml_float(node)
        if not math.isfinite(number):
            raise _problem_at(node, "a number that JSON cannot express")
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
                raise _problem_at(key, "a field name that is not a string")


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
        # Python has types for these; JSON does not.
        _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _Loader.construct_undefined)


_add_rules()


def _require_finite(document: yaml.Node) -> None:
    """Raise UnreadableYaml if a document is too large once its aliases and merges are expanded."""
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node, depth: int) -> int:
        if depth > _MAX_DEPTH:
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

    if size_of(document, 0) > _MAX_VALUES:
        raise UnreadableYaml(f"its aliases expand to more than {_MAX_VALUES} values")


def _problem_at(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
