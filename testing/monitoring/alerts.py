"""The chart's alerts."""

from __future__ import annotations

from typing import Any

import yaml

from testing.monitoring.prometheus_process import ALERTS

Json = dict[str, Any]

RULES: dict[str, Json] = {
    rule["alert"]: rule
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
"""The alerts, by name."""
