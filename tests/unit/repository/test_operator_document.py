"""docs/operator.md lists all metrics, conditions, root causes and events of the operator."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from testing.paths import ROOT
from whisper_operator.reconcile.events import EventReason
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.runtime.metrics import Metrics
from whispermodel.conditions import ConditionType

PAGE = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")


def exposed() -> dict[str, str]:
    """Return the type of each metric, by the name of its series."""
    model_metrics = ModelMetrics()
    registry: CollectorRegistry = Metrics(model_metrics=model_metrics, queue_depth=lambda: 0).registry
    types = {"info": ("_info", "gauge"), "counter": ("_total", "counter")}
    named = ((metric.name, *types.get(metric.type, ("", metric.type))) for metric in registry.collect())
    return {name + suffix: kind for name, suffix, kind in named}


def test_every_metric_is_documented_with_its_type_and_no_other() -> None:
    rows = re.findall(r"^\| `(whisper\w+)` \| (\w+) \|", PAGE, flags=re.MULTILINE)
    assert dict(rows) == exposed()


def test_every_condition_is_documented() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| [a-z]", PAGE, flags=re.MULTILINE)
    assert set(rows) >= {kind.value for kind in ConditionType}


def test_every_event_is_documented() -> None:
    [listed] = re.findall(r"^Events, one for each.*?\n\n", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == {reason.value for reason in EventReason}


def test_every_root_cause_is_documented() -> None:
    source = ROOT / "operator" / "src" / "whisper_operator" / "reconcile"
    code = (source / "failures.py").read_text() + (source / "observe.py").read_text()
    causes = set(re.findall(r'(?:Failure\(\s*|: )"([A-Z]\w+)"', code)) | {
        "Unreachable",
        "MemoryNotReleased",
        "InvalidSpec",
    }
    rows = set(re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, flags=re.MULTILINE))
    assert causes <= rows
