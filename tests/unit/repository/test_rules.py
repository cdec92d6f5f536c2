"""The operator has minimal permissions."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from testing.operator_process import RULES

ENTRIES: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())


@pytest.mark.parametrize("rule", ENTRIES, ids=lambda rule: ",".join(rule["resources"]))
def test_no_rule_has_a_wildcard_or_access_into_pods(rule: dict[str, Any]) -> None:
    words = {word for field in ("apiGroups", "resources", "verbs") for word in rule[field]}
    assert not words & {"*", "pods/exec", "pods/attach", "pods/portforward", "impersonate", "escalate", "bind"}


def test_access_to_secrets_is_limited_to_its_own() -> None:
    [rule] = [rule for rule in ENTRIES if "secrets" in rule["resources"]]
    assert rule["resources"] == ["secrets"]
    assert rule["resourceNames"] == ["whisper-operator-keys"]
    assert set(rule["verbs"]) == {"get", "create", "patch"}


def test_it_cannot_delete_anything() -> None:
    assert not any({"delete", "deletecollection"} & set(rule["verbs"]) for rule in ENTRIES)


def test_leases_are_read_only() -> None:
    [rule] = [rule for rule in ENTRIES if "leases" in rule["resources"]]
    assert set(rule["verbs"]) == {"get", "list", "watch"}
