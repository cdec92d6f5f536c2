"""Every query of dashboards and alerts, against a Prometheus that scraped the operator and real servers at work."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.monitoring.alerts import RULES
from testing.monitoring.dashboards import Query, filled_in, queries, variables
from testing.monitoring.played_models import MODEL, NAMESPACE, Seen, played
from testing.monitoring.promql import joined_labels, labels_of, selectors
from whispermodel.planning.modes import Reason

Json = dict[str, Any]

VARIABLES = {
    "namespace": NAMESPACE,
    "whispermodel": MODEL,
    "__interval": "1s",
    "__rate_interval": "10s",
    "__range": "5m",
}
EMPTY_SELECTORS = {
    f'whispermodel_condition{{namespace="{NAMESPACE}",status="Unknown",whispermodel="{MODEL}"}}': (
        "no pod is silent for so long that somebody looks"
    ),
}
EMPTY_SELECTORS |= {
    f'whispermodel_reason{{namespace="{NAMESPACE}",reason="{reason}",whispermodel="{MODEL}"}}': "nobody has it so"
    for reason in (Reason.SUSPENDED, Reason.OVERRIDE, Reason.SCHEDULE, Reason.MANUAL)
}
"""Selectors that find nothing in this scene, and why."""

EXPRESSIONS = {str(query): query.expression for query in queries()}
EXPRESSIONS |= {name: rule["expr"] for name, rule in RULES.items()}


@pytest.fixture(scope="module")
def scene(
    prometheus_programs: Path,
    cluster_programs: Path,
    weights: dict[str, Path],
    clip: Path,
    long_clip: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Seen]:
    """The Prometheus that has seen the whole scene."""
    folder = tmp_path_factory.mktemp("monitoring")
    with played(
        folder,
        clusters=cluster_programs,
        programs=prometheus_programs,
        weights=weights["faster-whisper"],
        clip=clip,
        long_clip=long_clip,
    ) as seen:
        yield seen


def series_of(scene: Seen, query: Query) -> list[Json]:
    """Return what a panel would show, as Grafana asks for it."""
    expression = filled_in(query.expression, VARIABLES)
    if query.is_instant:
        return scene.prometheus.ask("query", query=expression, time=scene.end)["result"]
    asked = {"query": expression, "start": scene.start, "end": scene.end, "step": VARIABLES["__interval"]}
    return scene.prometheus.ask("query_range", **asked)["result"]


def numbers(series: Json) -> list[float]:
    """Return what can be drawn."""
    every = [float(value) for _, value in series.get("values") or [series["value"]]]
    return [value for value in every if not math.isnan(value)]


@pytest.mark.parametrize("query", queries(), ids=str)
def test_a_panel_shows_something(scene: Seen, query: Query) -> None:
    series = series_of(scene, query)
    assert any(numbers(one) for one in series), f"nothing to show: {series}"
    missing = {name for one in series for name in query.labels_shown() - set(one["metric"])}
    assert missing == set(), "the legend or a column names labels that the series lack"


@pytest.mark.parametrize(
    ("board", "variable"), variables(), ids=lambda value: value["name"] if isinstance(value, dict) else value
)
def test_a_variable_offers_values(scene: Seen, board: str, variable: Json) -> None:
    [(selector, label)] = re.findall(r"^label_values\((.*), (\w+)\)$", variable["query"]["query"])
    found = scene.prometheus.ask(f"label/{label}/values", **{"match[]": filled_in(selector, VARIABLES)})
    assert VARIABLES[variable["name"]] in found


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_a_query_names_metrics_and_labels_that_are_documented(scene: Seen, source: str) -> None:
    tree = scene.prometheus.ask("parse_query", query=filled_in(EXPRESSIONS[source], VARIABLES))
    chosen = selectors(tree)
    assert {str(one) for one in chosen if labels_of(one.name) is None} == set(), "unknown metrics"
    everywhere = set[str]().union(*(labels_of(one.name) or () for one in chosen))
    assert joined_labels(tree) <= everywhere
    for one in chosen:
        assert {name for name, _, _ in one.matchers} <= (labels_of(one.name) or set()), one


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_each_selector_of_a_query_finds_series(scene: Seen, source: str) -> None:
    tree = scene.prometheus.ask("parse_query", query=filled_in(EXPRESSIONS[source], VARIABLES))
    times = {"start": scene.start, "end": scene.end}
    for one in selectors(tree):
        found = scene.prometheus.ask("series", **{"match[]": str(one)}, **times)
        assert bool(found) is (str(one) not in EMPTY_SELECTORS), one


def test_the_rules_are_evaluated_without_error(scene: Seen) -> None:
    groups = scene.prometheus.ask("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    assert health == dict.fromkeys(RULES, ("ok", ""))


def test_alerts_come_for_what_ails_and_for_nothing_else(scene: Seen) -> None:
    active = scene.prometheus.ask("alerts")["alerts"]
    named = {(one["labels"]["alertname"], one["labels"].get("whispermodel")) for one in active}
    of_broken = {("WhisperModelNotReady", "broken"), ("WhisperModelLoadFailing", "broken")}
    assert named - of_broken == {("WhisperScalerConflict", "ailing")}
    assert ("WhisperModelNotReady", "broken") in named
