"""The chart's dashboards, and the queries that Grafana would send for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from testing.monitoring.prometheus_process import CHART

FOLDER = CHART / "files" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """One query of a panel, with its variables not yet substituted."""

    dashboard: str
    panel: Json
    target: Json

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel['title']} {self.target['refId']}"

    @property
    def is_instant(self) -> bool:
        return self.target["instant"]

    @property
    def expression(self) -> str:
        return self.target["expr"]

    def labels_shown(self) -> set[str]:
        """Return the labels used by the legend or by the columns of a table."""
        legend = set(re.findall(r"\{\{(\w+)\}\}", self.target["legendFormat"]))
        return legend | {name for name in self._columns() if re.fullmatch(r"[a-z_]+", name)}

    def _columns(self) -> set[str]:
        steps = self.panel.get("transformations", []) if len(self.panel["targets"]) == 1 else []
        return {name for step in steps for name in step["options"].get("renameByName", {})}


@cache
def dashboard(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def panels(path: Path) -> list[Json]:
    """Return the panels, except rows."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Return every query of every panel."""
    return [Query(path.stem, panel, target) for path in FILES for panel in panels(path) for target in panel["targets"]]


def variables() -> list[tuple[str, Json]]:
    """Return every query variable with the name of its dashboard."""
    every = [(path.stem, variable) for path in FILES for variable in dashboard(path)["templating"]["list"]]
    return [(name, variable) for name, variable in every if variable["type"] == "query"]


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Substitute the variables of a query, as Grafana does; fail if one has no value."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], text)
