"""The audit log, from which the operator's benchmarks count writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.operator_bench.audit import AuditLog, by_kind


def line(resource: str, *, user: str = "operator", code: int = 200, name: str = "base") -> str:
    about = {"resource": resource, "namespace": "here", "name": name}
    times = {"requestReceivedTimestamp": "2026-11-23T10:00:00.000000Z", "stageTimestamp": "2026-11-23T10:00:00.250000Z"}
    event = {"user": {"username": user}, "verb": "patch", "objectRef": about, "responseStatus": {"code": code}, **times}
    return json.dumps(event) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_an_incomplete_line_is_read_once_complete(path: Path) -> None:
    whole = line("deployments")
    path.write_text(whole + whole[:50])
    log = AuditLog(path)
    assert len(log.refresh()) == 1
    path.write_text(whole + whole)
    assert len(log.refresh()) == 1
    assert len(log.writes) == 2


def test_only_successful_writes_of_objects_by_the_operator_count(path: Path) -> None:
    others = [line("leases"), line("events"), line("deployments", user="admin"), line("deployments", code=409)]
    path.write_text("".join([line("deployments"), *others]))
    assert by_kind(AuditLog(path).refresh()) == "1 deployments"
