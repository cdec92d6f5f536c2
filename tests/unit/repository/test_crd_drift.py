"""The typed model accepts exactly what the CRD, the source of the schema, accepts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from testing.paths import ROOT
from whisper_operator.offline.crd import crd, schema, set_defaults
from whispermodel import catalog, durations
from whispermodel.spec import GROUP, KIND, PLURAL, VERSION, Spec
from whispermodel.status import Status

Json = dict[str, Any]

CRD_FILE = ROOT / "crds" / "whispermodels.yaml"
PROPERTIES: Json = schema()["properties"]  # type: ignore[assignment]
NOT_TYPED_YET = {"status.energy"}


@dataclass(frozen=True)
class Pair:
    """A field in the CRD and in the typed model's JSON schema."""

    path: str
    ours: Json
    typed: Json

    @property
    def rules(self) -> str:
        return "\n".join(rule["rule"] for rule in self.ours.get("x-kubernetes-validations", []))


def resolved(node: Json, definitions: Json) -> Json:
    """Resolve references, and drop null, which only means that a field is optional."""
    if "$ref" in node:
        return resolved(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    if len(options) == 1:
        return resolved(options[0], definitions)
    if options:
        return {**node, **{name: value for option in options for name, value in option.items() if name != "const"}}
    return node


def pairs(path: str, ours: Json, typed: Json, definitions: Json) -> Iterator[Pair]:
    """Walk both schemas in parallel over their common fields."""
    typed = resolved(typed, definitions)
    yield Pair(path, ours, typed)
    for name, child in typed.get("properties", {}).items():
        if name in ours.get("properties", {}):
            yield from pairs(f"{path}.{name}", ours["properties"][name], child, definitions)
    for inner, step in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(typed.get(inner), dict) and isinstance(ours.get(inner), dict):
            yield from pairs(path + step, ours[inner], typed[inner], definitions)


def pairs_of(name: str, model: type[BaseModel]) -> list[Pair]:
    typed = model.model_json_schema(by_alias=True)
    return list(pairs(name, PROPERTIES[name], typed, typed["$defs"]))


def nodes(path: str, node: Json) -> Iterator[tuple[str, Json]]:
    """Yield every node of the CRD's schema."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(f"{path}.{name}" if path else name, child)
    for inner, step in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(node.get(inner), dict):
            yield from nodes(path + step, node[inner])


PAIRS = [*pairs_of("spec", Spec), *pairs_of("status", Status)]
# The API server describes metadata itself.
NODES = {path: node for path, node in nodes("", dict(schema())) if path != "metadata"}


def test_the_walk_reaches_nested_fields() -> None:
    reached = {pair.path for pair in PAIRS}
    assert {
        "spec.schedule.exceptions[].from",
        "spec.energy.unloadedWatts.central",
        "spec.pod.nodeSelector.*",
        "status.conditions[].lastTransitionTime",
        "status.lastLoad.phases.*",
    } <= reached


def test_the_packaged_file_is_a_link_to_crds() -> None:
    packaged = ROOT / "operator" / "src" / "whisper_operator" / "offline" / "whispermodels.yaml"
    assert packaged.resolve() == CRD_FILE


def test_both_have_the_same_names() -> None:
    spec: Json = crd()["spec"]  # type: ignore[assignment]
    assert (spec["group"], spec["names"]["kind"], spec["names"]["plural"], spec["versions"][0]["name"]) == (
        GROUP,
        KIND,
        PLURAL,
        VERSION,
    )


def differing(ours: Callable[[Pair], object], typed: Callable[[Pair], object]) -> dict[str, object]:
    """Return a property of each field in the CRD and in the typed model, where they differ."""
    return {pair.path: (ours(pair), typed(pair)) for pair in PAIRS if ours(pair) != typed(pair)}


def test_both_have_the_same_fields() -> None:
    def ours(pair: Pair) -> set[str]:
        return {name for name in pair.ours.get("properties", {}) if f"{pair.path}.{name}" not in NOT_TYPED_YET}

    assert differing(ours, lambda pair: set(pair.typed.get("properties", {}))) == {}


def test_both_require_the_same_fields() -> None:
    assert (
        differing(lambda pair: set(pair.ours.get("required", [])), lambda pair: set(pair.typed.get("required", [])))
        == {}
    )


def test_both_have_the_same_types() -> None:
    def ours(pair: Pair) -> str:
        return "integer" if pair.ours.get("x-kubernetes-int-or-string") else pair.ours["type"]

    assert differing(ours, lambda pair: pair.typed["type"]) == {}


def test_both_allow_the_same_enum_values() -> None:
    def typed(pair: Pair) -> set[str]:
        return set(catalog.names() if pair.path == "spec.model.size" else pair.typed.get("enum", ()))

    assert differing(lambda pair: set(pair.ours.get("enum", ())), typed) == {}


def test_both_have_the_same_bounds_of_numbers() -> None:
    def bounds(node: Json) -> Json:
        return {name: node[name] for name in ("minimum", "maximum") if name in node}

    assert differing(lambda pair: bounds(pair.ours), lambda pair: bounds(pair.typed)) == {}


@pytest.mark.parametrize("bound", ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"])
def test_bounds_of_the_typed_model_are_in_the_crd(bound: str) -> None:
    assert {
        pair.path: bound for pair in PAIRS if bound in pair.typed and pair.ours.get(bound) != pair.typed[bound]
    } == {}


def test_both_have_the_same_patterns() -> None:
    patterns = {pair.path: (pair.typed["pattern"], pair.rules) for pair in PAIRS if "pattern" in pair.typed}
    assert len(patterns) > 3
    assert {path: pattern for path, (pattern, rules) in patterns.items() if pattern not in rules} == {}


def test_durations_have_the_typed_models_format() -> None:
    texts = [pair for pair in PAIRS if pair.typed.get("format") == "duration"]
    longest = durations.format_duration(durations.LONGEST)
    assert len(texts) == 4
    assert [pair.path for pair in texts if "'^([0-9]{1,5}(h|m|s|ms)){1,4}$'" not in pair.rules] == []
    assert [pair.path for pair in texts if f"duration(self) <= duration('{longest}')" not in pair.rules] == []


def test_times_in_the_spec_require_an_offset() -> None:
    times = [pair for pair in PAIRS if pair.typed.get("format") == "date-time" and pair.path.startswith("spec.")]
    assert len(times) == 3
    assert [pair.path for pair in times if "timestamp(self)" not in pair.rules] == []


def test_times_in_the_status_have_the_format() -> None:
    def is_time(node: Json) -> bool:
        return node.get("format") == "date-time"

    in_status = [pair for pair in PAIRS if pair.path.startswith("status.")]
    assert [pair.path for pair in in_status if is_time(pair.ours) != is_time(pair.typed)] == []


def test_both_have_the_same_defaults() -> None:
    bare: Json = {"model": {"size": "base"}}
    filled: Json = {**bare, "schedule": {}}
    set_defaults(filled, PROPERTIES["spec"])
    typed = Spec.model_validate(bare).model_dump(mode="json", exclude_none=True)
    assert filled == without_empty(typed)


def without_empty(value: Json) -> Json:
    """Remove empty lists and objects, whose fields may be absent in the CRD."""
    inner = {name: without_empty(item) if isinstance(item, dict) else item for name, item in value.items()}
    return {name: item for name, item in inner.items() if item not in ([], {})}


def test_every_field_has_a_description() -> None:
    assert [
        path for path, node in NODES.items() if not re.fullmatch(r"[A-Z0-9].*\.", node.get("description", ""))
    ] == []


def test_every_string_list_and_map_is_bounded() -> None:
    def is_bounded(node: Json) -> bool:
        match node.get("type", "string"):
            case "string":
                return "maxLength" in node or node.get("format") == "date-time"
            case "array":
                return "maxItems" in node
            case _:
                return "additionalProperties" not in node or "maxProperties" in node

    assert [path for path, node in NODES.items() if not is_bounded(node)] == []


def test_every_list_has_a_merge_strategy() -> None:
    lists = {path: node for path, node in NODES.items() if node.get("type") == "array"}
    assert {path for path, node in lists.items() if node["x-kubernetes-list-type"] == "map"} == {
        "spec.schedule.entries",
        "spec.schedule.exceptions",
        "status.conditions",
    }


def test_messages_never_contain_a_regular_expression() -> None:
    rules = [rule for node in NODES.values() for rule in node.get("x-kubernetes-validations", [])]
    assert len(rules) > 20
    assert [path for path, node in NODES.items() if "pattern" in node] == []
    assert [rule for rule in rules if not re.fullmatch(r"[a-z].{20,}[^.]", rule["message"])] == []
    assert [rule for rule in rules if re.search(r"\\|\^|\[0-9", rule["message"])] == []
