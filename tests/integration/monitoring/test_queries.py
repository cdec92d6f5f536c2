"""Every query of the dashboards and alerts, against a Prometheus that scraped a running operator and real servers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.monitoring.alerts import RULES
from testing.monitoring.dashboards import Query, filled_in, queries, variables
from testing.monitoring.promql import joined_labels, labels_of, selectors
from testing.monitoring.scenario import MODEL, NAMESPACE, Observations, observed
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
        "no pod is unresponsive for long enough"
    ),
}
EMPTY_SELECTORS |= {
    f'whispermodel_reason{{namespace="{NAMESPACE}",reason="{reason}",whispermodel="{MODEL}"}}': "not covered here"
    for reason in (Reason.SUSPENDED, Reason.OVERRIDE, Reason.SCHEDULE, Reason.MANUAL)
}
EMPTY_SELECTORS |= {f'whispermodel_reason{{reason="{Reason.SUSPENDED}"}}': "not covered here"}
"""Selectors without series in this scenario, and why."""

EXPRESSIONS = {str(query): query.expression for query in queries()}
EXPRESSIONS |= {name: rule["expr"] for name, rule in RULES.items()}


@pytest.fixture(scope="module")
def observations(
    prometheus_programs: Path,
    cluster_programs: Path,
    weights: dict[str, Path],
    clip: Path,
    long_clip: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Observations]:
    """A Prometheus that has scraped the whole scenario."""
    folder = tmp_path_factory.mktemp("monitoring")
    with observed(
        folder,
        clusters=cluster_programs,
        programs=prometheus_programs,
        weights=weights["faster-whisper"],
        clip=clip,
        long_clip=long_clip,
    ) as observations:
        yield observations


def series_of(observations: Observations, query: Query) -> list[Json]:
    """Return the series of a panel, queried as Grafana does."""
    expression = filled_in(query.expression, VARIABLES)
    if query.is_instant:
        return observations.prometheus.ask("query", query=expression, time=observations.end)["result"]
    asked = {"query": expression, "start": observations.start, "end": observations.end, "step": VARIABLES["__interval"]}
    return observations.prometheus.ask("query_range", **asked)["result"]


def numbers(series: Json) -> list[float]:
    """Return the values that can be drawn."""
    every = [float(value) for _, value in series.get("values") or [series["value"]]]
    return [value for value in every if not math.isnan(value)]


@pytest.mark.parametrize("query", queries(), ids=str)
def test_a_panel_shows_data(observations: Observations, query: Query) -> None:
    series = series_of(observations, query)
    assert any(numbers(one) for one in series), f"no data: {series}"
    missing = {name for one in series for name in query.labels_shown() - set(one["metric"])}
    assert missing == set(), "the legend or a column uses labels that the series lack"


@pytest.mark.parametrize(
    ("dashboard", "variable"), variables(), ids=lambda value: value["name"] if isinstance(value, dict) else value
)
def test_a_variable_has_values(observations: Observations, dashboard: str, variable: Json) -> None:
    [(selector, label)] = re.findall(r"^label_values\((.*), (\w+)\)$", variable["query"]["query"])
    found = observations.prometheus.ask(f"label/{label}/values", **{"match[]": filled_in(selector, VARIABLES)})
    assert VARIABLES[variable["name"]] in found


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_a_query_uses_documented_metrics_and_labels(observations: Observations, source: str) -> None:
    tree = observations.prometheus.ask("parse_query", query=filled_in(EXPRESSIONS[source], VARIABLES))
    chosen = selectors(tree)
    assert {str(one) for one in chosen if labels_of(one.name) is None} == set(), "unknown metrics"
    everywhere = set[str]().union(*(labels_of(one.name) or () for one in chosen))
    assert joined_labels(tree) <= everywhere
    for one in chosen:
        assert {name for name, _, _ in one.matchers} <= (labels_of(one.name) or set()), one


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_each_selector_of_a_query_matches_series(observations: Observations, source: str) -> None:
    tree = observations.prometheus.ask("parse_query", query=filled_in(EXPRESSIONS[source], VARIABLES))
    times = {"start": observations.start, "end": observations.end}
    for one in selectors(tree):
        found = observations.prometheus.ask("series", **{"match[]": str(one)}, **times)
        assert bool(found) is (str(one) not in EMPTY_SELECTORS), one


def test_the_rules_evaluate_without_errors(observations: Observations) -> None:
    groups = observations.prometheus.ask("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    assert health == dict.fromkeys(RULES, ("ok", ""))


def test_only_the_broken_models_raise_alerts(observations: Observations) -> None:
    active = observations.prometheus.ask("alerts")["alerts"]
    named = {(one["labels"]["alertname"], one["labels"].get("whispermodel")) for one in active}
    of_broken = {("WhisperModelNotReady", "broken"), ("WhisperModelLoadFailing", "broken")}
    assert named - of_broken == {("WhisperScalerConflict", "misconfigured")}
    assert ("WhisperModelNotReady", "broken") in named
