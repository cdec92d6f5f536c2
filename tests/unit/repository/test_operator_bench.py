"""What the operator's benchmarks measure with: the audit log, the tables' own place, and an API server in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.operator_bench.__main__ import BEGIN, END
from benchmarks.operator_bench.audit import AuditLog, by_kind
from benchmarks.operator_bench.fleet import percentile
from benchmarks.report import PAGE, Report, write_docs
from testing.simulated_api import SimulatedApi
from whisper_cluster.api import DEPLOYMENTS, WHISPER_MODELS, Cluster
from whisper_cluster.names import OPERATOR
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.runtime.metrics import Metrics


def line(resource: str, *, user: str = "operator", code: int = 200, name: str = "base") -> str:
    about = {"resource": resource, "namespace": "here", "name": name}
    times = {"requestReceivedTimestamp": "2026-11-23T10:00:00.000000Z", "stageTimestamp": "2026-11-23T10:00:00.250000Z"}
    event = {"user": {"username": user}, "verb": "patch", "objectRef": about, "responseStatus": {"code": code}, **times}
    return json.dumps(event) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_a_line_that_is_half_written_is_read_when_it_is_whole(path: Path) -> None:
    whole = line("deployments")
    path.write_text(whole + whole[:50])
    log = AuditLog(path)
    assert len(log.refresh()) == 1
    path.write_text(whole + whole)
    assert len(log.refresh()) == 1
    assert len(log.writes) == 2


def test_leases_events_refusals_and_other_peoples_writes_do_not_count(path: Path) -> None:
    others = [line("leases"), line("events"), line("deployments", user="admin"), line("deployments", code=409)]
    path.write_text("".join([line("deployments"), *others]))
    assert by_kind(AuditLog(path).refresh()) == "1 deployments"


def test_a_demand_lease_is_its_models(path: Path) -> None:
    path.write_text(line("leases", name="demand-base"))
    [write] = AuditLog(path).refresh()
    assert write.model == ("here", "base")
    assert write.done - write.received == pytest.approx(0.25)


def test_a_percentile_is_not_exceeded_by_its_share() -> None:
    assert percentile([float(value) for value in range(101)], 95) == 95
    assert percentile([3.0], 99) == 3


def test_the_page_has_a_place_for_the_operators_tables() -> None:
    before, _, after = PAGE.read_text("utf-8").partition(BEGIN)
    assert before
    assert after.count(END) == 1


def test_the_operators_tables_leave_the_servers_alone(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    servers = "<!-- bench:begin -->\nthe server's\n<!-- bench:end -->\n"
    page.write_text(f"{servers}{BEGIN}\nstale\n{END}\n", encoding="utf-8")
    write_docs(Report(datetime(2026, 1, 2, tzinfo=UTC), 60.0, {"cores": 2.0}, {}, {}), page, begin=BEGIN, end=END)
    text = page.read_text("utf-8")
    assert text.startswith(servers)
    assert "stale" not in text


async def test_the_api_server_in_memory_answers_the_operators_client() -> None:
    seen: list[str] = []
    api = SimulatedApi(lambda path, now, last: seen.append(path))
    cluster = Cluster(
        cast("Any", api), counter=Metrics(model_metrics=ModelMetrics(), queue_depth=lambda: 0.0), field_manager=OPERATOR
    )
    metadata = {"namespace": "here", "name": "base"}
    assert await cluster.get(DEPLOYMENTS, "here", "base") is None
    await cluster.apply(WHISPER_MODELS, {"metadata": metadata, "spec": {"replicas": 1}})
    await cluster.apply(WHISPER_MODELS, {"metadata": metadata, "status": {"state": "Zero"}}, subresource="status")
    [model] = [one async for one in cluster.list_all(WHISPER_MODELS, None)]
    assert (model["spec"], model["status"]) == ({"replicas": 1}, {"state": "Zero"})
    assert len(seen) == 2
