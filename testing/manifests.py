"""Manifests of WhisperModels with the verdict that each deserves, for the API server and for the offline check."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testing.paths import ROOT
from whispermodel.manifests import manifests_in
from whispermodel.spec import API_VERSION, KIND

Json = dict[str, Any]

EXAMPLE_FILES = sorted((ROOT / "examples").glob("*.yaml"))
EXAMPLES = [path for path in EXAMPLE_FILES if path.stem != "demand-lease"]
"""Those of WhisperModels."""
STATUSES: list[tuple[object, list[str]]] = [
    ({"state": "Dreaming"}, []),
    (3, []),
    ({"bogus": 1}, ['unknown field "status.bogus"']),
    ({"conditions": [{"x": 1}]}, ['unknown field "status.conditions[0].x"']),
]
"""What may stand in a manifest as its status, with what the API server says: it has a route of its own."""
_TABLE = ROOT / "tests" / "data" / "manifests.yaml"


@dataclass(frozen=True, slots=True)
class Case:
    """A manifest and the words of its refusal; none: it is accepted."""

    title: str
    manifest: Json
    says: str | None = None


def manifest(spec: Json, *, name: str = "base") -> Json:
    """Return a WhisperModel whose spec is the smallest there is, with this one laid over it."""
    laid_over = _merged({"model": {"size": "base"}}, spec)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": laid_over}


def cases() -> list[Case]:
    """Return the table, and the cases that no table could hold."""
    table = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    rows = [*table["accepted"], *table["refused"]]
    written = [Case(row["case"], manifest(row["spec"], name=row.get("name", "base")), row.get("says")) for row in rows]
    return [*written, *_built()]


def example(path: Path) -> Json:
    """Return the manifest of an example."""
    [found] = manifests_in(path.read_text(encoding="utf-8"))
    return found


def _built() -> list[Case]:
    empty = manifest({})
    empty["spec"] |= {"cache": None, "schedule": None, "replicas": None, "pod": {"labels": {"team": None}}}
    return [
        Case("fields that are there and say nothing", empty),
        Case("as many entries as there may be", manifest({"schedule": {"entries": _entries(32)}})),
        Case(
            "one entry too many",
            manifest({"schedule": {"entries": _entries(33)}}),
            "spec.schedule.entries: Too many: 33: must have at most 32 items",
        ),
        Case("as many exceptions as there may be", manifest({"schedule": {"exceptions": _exceptions(64)}})),
        Case(
            "one exception too many",
            manifest({"schedule": {"exceptions": _exceptions(65)}}),
            "spec.schedule.exceptions: Too many: 65: must have at most 64 items",
        ),
        Case(
            "a reason that is too long",
            manifest({"override": {"state": "Loaded", "until": "2026-11-27T23:00:00Z", "reason": "x" * 257}}),
            "spec.override.reason: Too long: may not be more than 256 bytes",
        ),
        Case(
            "too many labels",
            manifest({"pod": {"labels": {f"label-{number}": "x" for number in range(65)}}}),
            "spec.pod.labels: Too many: 65: must have at most 64 items",
        ),
    ]


def _entries(count: int) -> list[Json]:
    return [{"name": f"entry-{number}", "cron": f"{number} 7 * * *", "state": "Loaded"} for number in range(count)]


def _exceptions(count: int) -> list[Json]:
    return [
        {"name": f"year-{year}", "from": f"{year}-12-24T00:00:00Z", "to": f"{year}-12-27T00:00:00Z", "state": "Zero"}
        for year in range(2026, 2026 + count)
    ]


def _merged(under: Json, over: Json) -> Json:
    """Lay one object over another; null takes a field away (RFC 7386)."""
    result = copy.deepcopy(under)
    for name, value in over.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = _merged(result[name], value)
        else:
            result[name] = value
    return result
