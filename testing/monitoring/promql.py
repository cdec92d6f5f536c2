"""Metrics and labels used by a parsed PromQL query, and those that the documentation declares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from testing.api_server import ROOT

TARGET_LABELS = {"job", "instance", "namespace", "pod", "container", "endpoint"}
"""Labels that the monitors add to each series."""
_MODEL_LABELS = {"namespace", "whispermodel"}
_SUFFIXES = re.compile(r"_(bucket|sum|count)$")

Json = dict[str, Any]


@dataclass(frozen=True)
class Selector:
    """A selector in a query. matchers: label, operator and value, without the metric name."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        inner = ",".join(f'{name}{operator}"{value}"' for name, operator, value in self.matchers)
        return f"{self.name}{{{inner}}}"


def nodes(tree: object) -> Iterator[Json]:
    """Yield every node of a parsed query."""
    if isinstance(tree, dict):
        yield tree
        for part in tree.values():
            yield from nodes(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from nodes(part)


def selectors(tree: Json) -> set[Selector]:
    """Return the selectors of a query."""
    found = [node for node in nodes(tree) if node.get("type") in ("vectorSelector", "matrixSelector")]
    return {Selector(node["name"], _matchers(node)) for node in found}


def joined_labels(tree: Json) -> set[str]:
    """Return the labels that a query groups by or matches on."""
    grouped = {name for node in nodes(tree) for name in node.get("grouping") or ()}
    matched = {name for node in nodes(tree) if "card" in node for name in (*node["labels"], *node["include"])}
    return grouped | matched


def _matchers(node: Json) -> tuple[tuple[str, str, str], ...]:
    every = ((one["name"], one["type"], one["value"]) for one in node["matchers"])
    return tuple(sorted(one for one in every if one[0] != "__name__"))


def documented() -> dict[str, set[str]]:
    """Return the labels of each documented metric. Unit tests compare both pages with the code."""
    tables = re.compile(r"^\| `(whisper\w+)` \| \w+ \| (.*?) \|", flags=re.MULTILINE)
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("metrics.md", "operator.md")]
    rows = [row for page in pages for row in tables.findall(page)]
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def labels_of(name: str) -> set[str] | None:
    """Return all labels of a metric's series in Prometheus, or None if the metric is unknown."""
    known = documented()
    own = known.get(name, known.get(_SUFFIXES.sub("", name)))
    if own is None:
        return None
    of_bucket = {"le"} if name.endswith("_bucket") else set[str]()
    of_model = set[str]() if name.startswith(("whisper_operator_", "whisper_gateway_")) else _MODEL_LABELS
    return own | of_bucket | of_model | TARGET_LABELS
