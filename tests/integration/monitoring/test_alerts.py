"""Unit tests of the alerts, run by promtool: each fires for its problem, and none for normal operation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.monitoring.alerts import RULES
from testing.monitoring.prometheus_process import ALERTS

Json = dict[str, Any]

HERE = Path(__file__).parent
FIRING: list[Json] = yaml.safe_load((HERE / "alerts_fire.yaml").read_text())
SILENT: list[Json] = yaml.safe_load((HERE / "alerts_silent.yaml").read_text())
HEALTHY = {
    'whisper_operator_build_info{namespace="w",job="whisper-operator",pod="o",instance="1",version="1"}': "1x240",
    'whisper_operator_leader{namespace="w",job="whisper-operator",pod="o",instance="1"}': "1x240",
    'whisper_operator_leader{namespace="w",job="whisper-operator",pod="p",instance="2"}': "0x240",
    'whisper_operator_queue_depth{namespace="w",job="whisper-operator",pod="o",instance="1"}': "0x10 3x5 0x225",
    'whisper_operator_queue_depth{namespace="w",job="whisper-operator",pod="p",instance="2"}': "80x240",
    'whisper_gateway_stored_limit_bytes{namespace="w",job="whisper-gateway",pod="g",instance="3"}': "1000x240",
    'whisper_gateway_stored_bytes{namespace="w",job="whisper-gateway",pod="g",instance="3"}': "0x240",
}
"""A healthy operator with a standby replica, and a healthy gateway."""
NO_ALERTS = {
    "expr": 'count by (alertname) (last_over_time(ALERTS{alertstate="firing"}[4h]))',
    "eval_time": "4h",
    "exp_samples": [],
}
"""Expects that no alert fired at any time."""


def promtool(programs: Path, *arguments: str, folder: Path) -> str:
    """Run promtool and return its output; fail with the output if promtool fails."""
    command = [str(programs / "promtool"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(programs: Path, group: Json, *, folder: Path) -> None:
    """Run one group of promtool tests on the alerts without their annotations."""
    bare = [{name: value for name, value in rule.items() if name != "annotations"} for rule in RULES.values()]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": bare}]}))
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [{"interval": "1m", **group}]}
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests))
    promtool(programs, "test", "rules", "tests.yaml", folder=folder)


def expectations() -> dict[str, list[Json]]:
    """Return the expectations of the tests for each alert."""
    every = [one for group in FIRING for one in group["alert_rule_test"]]
    return {name: [one for one in every if one["alertname"] == name] for name in RULES}


def test_promtool_accepts_the_rules(prometheus_programs: Path, tmp_path: Path) -> None:
    output = promtool(prometheus_programs, "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS), folder=tmp_path)
    assert f"{len(RULES)} rules found" in output


@pytest.mark.parametrize("group", FIRING, ids=lambda group: group["name"])
def test_an_alert_fires_for_its_problem_and_not_before(prometheus_programs: Path, tmp_path: Path, group: Json) -> None:
    check(prometheus_programs, group, folder=tmp_path)


@pytest.mark.parametrize("group", SILENT, ids=lambda group: group["name"])
def test_no_alert_fires_for(prometheus_programs: Path, tmp_path: Path, group: Json) -> None:
    given = {one["series"] for one in group["input_series"]}
    healthy = [{"series": series, "values": values} for series, values in HEALTHY.items() if series not in given]
    whole = {**group, "input_series": [*group["input_series"], *healthy], "promql_expr_test": [NO_ALERTS]}
    check(prometheus_programs, whole, folder=tmp_path)


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_is_tested_both_firing_and_silent(alert: str) -> None:
    fires = [bool(one.get("exp_alerts")) for one in expectations()[alert]]
    assert True in fires
    assert False in fires


@pytest.mark.parametrize("alert", RULES)
def test_annotations_use_only_labels_that_the_alert_has(alert: str) -> None:
    text = " ".join(RULES[alert]["annotations"].values())
    [*labels] = [one["exp_labels"] for case in expectations()[alert] for one in case.get("exp_alerts", ())]
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= set.intersection(*(set(one) for one in labels))
