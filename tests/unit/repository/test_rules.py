"""The operator's rights are the few that it needs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from testing.operator_process import RULES

ENTRIES: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())


@pytest.mark.parametrize("rule", ENTRIES, ids=lambda rule: ",".join(rule["resources"]))
def test_no_rule_has_a_wildcard_or_lets_run_commands_in_pods(rule: dict[str, Any]) -> None:
    words = {word for field in ("apiGroups", "resources", "verbs") for word in rule[field]}
    assert not words & {"*", "pods/exec", "pods/attach", "pods/portforward", "impersonate", "escalate", "bind"}


def test_of_secrets_it_may_get_create_and_patch_its_own_alone() -> None:
    [rule] = [rule for rule in ENTRIES if "secrets" in rule["resources"]]
    assert rule["resources"] == ["secrets"]
    assert rule["resourceNames"] == ["whisper-operator-keys"]
    assert set(rule["verbs"]) == {"get", "create", "patch"}


def test_it_may_delete_nothing() -> None:
    assert not any({"delete", "deletecollection"} & set(rule["verbs"]) for rule in ENTRIES)


def test_of_leases_it_may_write_none_but_its_own_which_is_another_roles() -> None:
    [rule] = [rule for rule in ENTRIES if "leases" in rule["resources"]]
    assert set(rule["verbs"]) == {"get", "list", "watch"}
