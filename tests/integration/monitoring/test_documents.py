"""Dashboards, alerts and runbooks are consistent, and use only documented metrics."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from testing.api_server import ROOT
from testing.monitoring.alerts import RULES
from testing.monitoring.dashboards import FILES, FOLDER, dashboard, panels
from testing.monitoring.prometheus_process import ALERTS
from testing.monitoring.promql import labels_of
from whispermodel.planning.modes import Reason

Json = dict[str, Any]

RUNBOOKS = ROOT / "docs" / "runbooks"
INDEX = re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \|", (RUNBOOKS / "README.md").read_text(), flags=re.MULTILINE)
KINDS = {"timeseries", "stat", "state-timeline", "table"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

every_dashboard = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
every_alert = pytest.mark.parametrize("alert", RULES)


def overlap(one: Json, other: Json) -> bool:
    """Return whether two panels overlap."""
    a, b = one["gridPos"], other["gridPos"]
    beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
    above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
    return not (beside or above)


def test_there_are_two_dashboards_with_unique_ids() -> None:
    assert [path.stem for path in FILES] == ["fleet", "model"]
    assert {dashboard(path)["uid"] for path in FILES} == {"whisper-fleet", "whisper-model"}


@every_dashboard
def test_a_dashboard_takes_its_data_source_from_a_variable(path: Path) -> None:
    content = dashboard(path)
    assert "__inputs" not in content
    assert content["templating"]["list"][0]["name"] == "datasource"
    asked = [*panels(path), *content["templating"]["list"][1:]]
    assert [one for one in asked if one["datasource"] != DATASOURCE] == []


@every_dashboard
def test_panels_have_unique_ids_and_titles_and_do_not_overlap(path: Path) -> None:
    every = dashboard(path)["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in panels(path)}) == len(panels(path))
    assert [(one["title"], other["title"]) for one, other in combinations(every, 2) if overlap(one, other)] == []
    assert [panel["title"] for panel in every if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24] == []


@every_dashboard
def test_each_panel_has_a_description_and_a_unit(path: Path) -> None:
    for panel in panels(path):
        assert panel["type"] in KINDS, panel["title"]
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@every_dashboard
def test_links_point_to_existing_dashboards(path: Path) -> None:
    uids = {dashboard(other)["uid"] for other in FILES}
    named = set(re.findall(r'"/d/([\w-]+)', path.read_text(encoding="utf-8")))
    assert named
    assert named <= uids


def test_the_timeline_names_every_reason() -> None:
    [timeline] = [panel for panel in panels(FOLDER / "model.json") if panel["title"] == "State, target and reason"]
    numbered = re.findall(r'reason="(\w+)"} \* (\d+)', timeline["targets"][-1]["expr"])
    texts = timeline["fieldConfig"]["defaults"]["mappings"][0]["options"]
    assert {reason for reason, _ in numbered} == set(Reason)
    assert [(reason, texts[number]["text"]) for reason, number in numbered] == [(name, name) for name, _ in numbered]


@pytest.mark.parametrize("path", [*FILES, ALERTS], ids=lambda path: path.name)
def test_each_metric_is_documented(path: Path) -> None:
    named = set(re.findall(r"\bwhisper(?:model)?_\w+(?=[\[{) ]| offset)", path.read_text(encoding="utf-8")))
    assert len(named) > 5
    assert {name for name in named if labels_of(name) is None} == set()


@every_alert
def test_an_alert_has_a_severity_a_summary_and_a_description(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}


def test_alerts_and_runbooks_match() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(RULES)
    assert dict(INDEX) == {name: rule["labels"]["severity"] for name, rule in RULES.items()}


@every_alert
def test_a_runbook_explains_its_alert(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {alert}\n\n*{RULES[alert]['labels']['severity']}*: ")
    assert "**What it means.**" in text
    assert "**Do" in text
