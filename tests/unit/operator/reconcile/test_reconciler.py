"""Reconciliations one after another, with an API server in memory and a pod's server in this process."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from testing.operator_harness import LABEL, NOON, lease_of
from testing.planner_cases import EVENING, exception
from testing.reconcile_harness import KEY, IdleServer, LoadedBeforeServer, ReconcileHarness, SlowLoadServer
from whisper_cluster.api import DEPLOYMENTS, NETWORK_POLICIES
from whisper_cluster.errors import NotLeading
from whisper_cluster.objects import Deployment
from whisper_operator.reconcile.status import BRIEF_LOAD, FIGURES_EVERY
from whispermodel.states import Mode


async def test_spec_changed_during_the_status_write_is_reconciled_at_once() -> None:
    harness = ReconcileHarness(desiredState="Zero")
    harness.api.coming = {"model": {"size": "base"}, "desiredState": "Loaded"}
    assert await harness.reconcile() == NOON
    assert await harness.reconcile() != NOON
    assert harness.status.target == "Loaded"


async def test_start_counts_only_while_awaited() -> None:
    harness = ReconcileHarness(desiredState="Unloaded")
    await harness.reconcile()
    harness.start_pod()
    await harness.reconcile()
    harness.now += timedelta(hours=9)
    harness.apply(desiredState="Loaded")
    await harness.reconcile()
    await harness.reconcile()
    assert harness.status.recent_start_seconds == (2.5,)


async def test_demand_that_ended_during_the_start_keeps_the_idle_time() -> None:
    harness = ReconcileHarness(idle={"unloadAfter": "10s"})
    harness.store.leases.put(lease_of(renewed=NOON, lasts=15))
    await harness.reconcile()
    harness.start_pod()
    harness.now += timedelta(seconds=20)
    harness.server = server = SlowLoadServer()
    await harness.reconcile()
    harness.now += BRIEF_LOAD
    await harness.reconcile()
    assert harness.status.state == "Loading"
    harness.now += timedelta(seconds=30)
    server.may_end.set()
    await asyncio.sleep(0)
    await harness.reconcile()
    assert (harness.status.state, harness.status.idle_since) == ("Loaded", harness.now)


async def test_memory_of_an_unchanged_pod_is_read_once_in_a_while() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    harness.start_pod()
    harness.server = server = IdleServer(harness)
    await harness.reconcile()
    harness.now += FIGURES_EVERY - timedelta(seconds=1)
    await harness.reconcile()
    assert server.scrapes == 1
    harness.now += timedelta(seconds=1)
    await harness.reconcile()
    assert server.scrapes == 2


async def test_load_by_a_request_is_reported_once() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    harness.start_pod()
    harness.server = LoadedBeforeServer(harness)
    for _ in range(3):
        harness.now += timedelta(seconds=61)
        await harness.reconcile()
        assert harness.status.last_load is not None
        assert harness.status.last_load.time == NOON - timedelta(seconds=30)
        assert harness.status.recent_start_seconds == (2.5,)


async def test_pod_is_called_before_the_status_is_written() -> None:
    harness = ReconcileHarness(desiredState="Unloaded")
    await harness.reconcile()
    harness.start_pod()
    await harness.reconcile()
    harness.apply(desiredState="Loaded")
    harness.server = SlowLoadServer()
    harness.api.writes.clear()
    assert await harness.reconcile() == harness.now
    assert harness.api.writes == []
    assert await harness.reconcile() != harness.now
    assert harness.api.writes[0] == "Loading"


async def test_former_leader_stays_silent() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    harness.start_pod()
    harness.server = SlowLoadServer()
    harness.api.writes.clear()
    harness.leads = False
    await harness.reconcile()
    harness.now += BRIEF_LOAD
    with pytest.raises(NotLeading):
        await harness.reconcile()
    assert harness.api.writes == []
    await asyncio.sleep(0.01)
    assert (harness.pod_calls.in_progress(KEY, "uid-base-1"), harness.pod_calls.take(KEY)) == (None, [])
    assert KEY in harness.seen, "a replica that leads after all reconciles again"
    assert harness.reconciler.memories[KEY].receipts.unreported.failure is None


async def test_invalid_spec_is_shown_in_metrics() -> None:
    harness = ReconcileHarness(model={"size": "enormous"})
    await harness.reconcile()
    assert harness.condition("Ready").reason == "InvalidSpec"
    conditions = [family for family in harness.model_metrics.collect() if family.name == "whispermodel_condition"]
    assert {sample.labels["type"]: sample.labels["status"] for sample in conditions[0].samples}["Ready"] == "False"


async def test_network_policy_is_applied_once_and_reverted_without_the_setting() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "gateway"}}}
    path = NETWORK_POLICIES.path(KEY.namespace, KEY.name)

    harness = ReconcileHarness(allow_from=[peer], desiredState="Zero")
    await harness.reconcile()
    assert harness.api.objects[path]["spec"]["ingress"] == [{"from": [peer]}]
    version = harness.api.objects[path]["metadata"]["resourceVersion"]
    await harness.reconcile()
    assert harness.api.objects[path]["metadata"]["resourceVersion"] == version
    harness.restart(allow_from=None)
    await harness.reconcile()
    assert harness.api.objects[path]["spec"]["ingress"] == [{}]


async def test_no_network_policy_without_the_setting() -> None:
    harness = ReconcileHarness(desiredState="Zero")
    await harness.reconcile()
    assert NETWORK_POLICIES.path(KEY.namespace, KEY.name) not in harness.api.objects


OPEN = exception("open", "2026-03-02T11:30:00Z", "2026-03-02T13:00:00Z", state=Mode.AUTO)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"override": {"state": "Auto", "until": "2026-03-02T13:00:00Z"}}, id="an override"),
        pytest.param({"schedule": {"exceptions": [OPEN]}}, id="an exception"),
    ],
)
async def test_manual_load_holds_again_after_an_auto_period(spec: dict[str, Any]) -> None:
    harness = ReconcileHarness(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"}, **spec)
    harness.set_status(state="Zero", target="Zero", manual={"state": "Loaded", "at": "2026-03-02T11:00:00Z"})
    check_at = await harness.reconcile()
    assert (harness.status.target, harness.status.reason) == ("Zero", "Idle")
    harness.now += timedelta(hours=1)
    assert check_at == harness.now
    await harness.reconcile()
    assert (harness.status.target, harness.status.reason) == ("Loaded", "Manual")


async def test_fire_under_an_override_ends_a_manual_load() -> None:
    entries = [{"name": "eleven", "cron": "30 11 * * *", "state": "Auto"}]
    harness = ReconcileHarness(
        schedule={"entries": entries}, override={"state": "Zero", "until": "2026-03-02T13:00:00Z"}
    )
    harness.set_status(manual={"state": "Loaded", "at": "2026-03-02T11:00:00Z"})
    await harness.reconcile()
    assert harness.status.manual is None


class TestPodsThatEnd:
    NO_GPU = "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu"

    async def refused(self, harness: ReconcileHarness, *names: str) -> None:
        """Let the node reject these pods one after another."""
        await harness.reconcile()
        for name in names:
            harness.now += timedelta(seconds=1)
            harness.show_pod(name, phase="Failed", reason="UnexpectedAdmissionError", message=self.NO_GPU)
        await harness.reconcile()

    async def test_rejected_pods_are_reported(self) -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        await self.refused(harness, "base-1", "base-2", "base-3")
        status = harness.status
        assert (status.state, status.target) == ("Failed", "Loaded")
        assert status.message.startswith(f"A pod failed on its node: {self.NO_GPU}. Wanted: ")
        assert status.last_failure is not None
        assert status.last_failure.reason == "UnexpectedAdmissionError"
        degraded, ready = harness.condition("Degraded"), harness.condition("Ready")
        assert (degraded.status, degraded.reason) == ("True", "UnexpectedAdmissionError")
        assert (ready.status, ready.reason) == ("False", "UnexpectedAdmissionError")

    async def test_repeated_rejections_are_reported_once(self) -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        await self.refused(harness, "base-1")
        reported = harness.status
        harness.now += timedelta(minutes=1)
        await self.refused(harness, "base-2", "base-3")
        assert harness.status == reported

    async def test_rejection_is_forgotten_once_the_pod_is_replaced(self) -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        await self.refused(harness, "base-1")
        harness.show_pod("base-2", phase="Pending")
        assert await harness.reconcile() == harness.now + timedelta(minutes=2)
        harness.now += timedelta(minutes=2)
        await harness.reconcile()
        assert harness.status.state == "Starting"
        assert harness.condition("Degraded").status == "False"

    async def test_rejection_before_zero_does_not_affect_the_next_start(self) -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        await self.refused(harness, "base-1")
        harness.now += timedelta(hours=1)
        harness.apply(desiredState="Zero")
        await harness.reconcile()
        harness.apply(desiredState="Loaded")
        await harness.reconcile()
        await harness.reconcile()
        assert harness.status.state == "Starting"

    async def test_model_with_one_serving_pod_is_ready_and_degraded(self) -> None:
        harness = ReconcileHarness(desiredState="Unloaded", replicas=2)
        await harness.reconcile()
        harness.start_pod()
        await self.refused(harness, "base-2")
        assert harness.status.state == "Unloaded"
        assert harness.condition("Ready").status == "True"
        assert harness.condition("Degraded").reason == "UnexpectedAdmissionError"


async def test_late_start_is_reported_after_two_minutes() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    taken = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": NOON.isoformat()}]
    harness.show_pod("base-1", phase="Pending", conditions=taken)
    check_at = await harness.reconcile()
    assert harness.condition("Degraded").status == "False"
    harness.now += timedelta(minutes=2)
    assert check_at == harness.now
    await harness.reconcile()
    assert (harness.status.state, harness.condition("Degraded").reason) == ("Starting", "StartTimeout")


async def without_room() -> ReconcileHarness:
    """Return a model with one terminating pod and one that cannot be scheduled."""
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    nowhere = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: insufficient nvidia.com/gpu"}]
    harness.show_pod("base-1", phase="Running", leaving=True)
    harness.show_pod("base-2", phase="Pending", conditions=nowhere)
    return harness


async def test_unschedulable_pod_is_no_failure_while_the_previous_one_drains() -> None:
    harness = await without_room()
    await harness.reconcile()
    assert (harness.status.state, harness.condition("Degraded").status) == ("Starting", "False")
    assert "waiting for the previous one" in harness.condition("Progressing").message
    [old] = [pod for pod in harness.store.pods.of(KEY) if pod.leaving]
    harness.store.pods.remove(old)
    await harness.reconcile()
    assert (harness.status.state, harness.condition("Degraded").reason) == ("Failed", "Unschedulable")


async def test_pod_on_a_lost_node_does_not_hide_unschedulable() -> None:
    # Its node is lost, so its end is never reported.
    harness = await without_room()
    check_at = await harness.reconcile()
    assert check_at is not None
    harness.now = check_at
    await harness.reconcile()
    assert harness.now < NOON + timedelta(hours=2)
    assert (harness.status.state, harness.condition("Degraded").reason) == ("Failed", "Unschedulable")


async def test_refusal_is_logged_once_and_reported() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    harness.api.forbids = DEPLOYMENTS.path(KEY.namespace, KEY.name)
    with capture_logs() as logs:
        await harness.reconcile()
        await harness.reconcile()
    refusals = [line for line in logs if line["event"] == "child.refused"]
    assert [(line["log_level"], line["reason"]) for line in refusals] == [("warning", "DeploymentRefused")]
    assert refusals[0]["message"].startswith(f"The API server rejected Deployment '{KEY.name}': ")
    assert "exceeded quota: none" in refusals[0]["message"]
    assert harness.condition("Degraded").reason == "DeploymentRefused"
    harness.api.forbids = None
    harness.now += timedelta(minutes=1)
    await harness.reconcile()
    assert harness.condition("Degraded").status == "False"


async def test_start_excludes_the_time_held_at_zero() -> None:
    harness = ReconcileHarness(desiredState="Zero")
    await harness.reconcile()
    harness.apply(desiredState="Loaded")
    harness.scale(0, by="keda")
    await harness.reconcile()
    harness.now += timedelta(hours=9)
    harness.scale(1, by="keda")
    harness.start_pod()
    await harness.reconcile()
    await harness.reconcile()
    assert harness.status.recent_start_seconds == (2.5,)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param({"ownerReferences": []}, id="owner"),
        pytest.param({"labels": {LABEL: "base"}}, id="labels"),
        pytest.param({"annotations": {}}, id="annotation"),
    ],
)
async def test_lost_metadata_of_the_deployment_is_restored(loss: dict[str, Any]) -> None:
    harness = ReconcileHarness(desiredState="Zero")
    await harness.reconcile()
    path = DEPLOYMENTS.path(KEY.namespace, KEY.name)
    there = harness.api.objects[path]
    harness.store.deployments.put(
        Deployment.model_validate(harness.api.put(path, {**there, "metadata": {**there["metadata"], **loss}}))
    )
    await harness.reconcile()
    restored = harness.api.objects[path]["metadata"]
    assert {field: restored[field] for field in loss} == {field: there["metadata"][field] for field in loss}


async def test_status_of_a_later_version_is_read_in_part() -> None:
    harness = ReconcileHarness()
    manual = {"state": "Loaded", "at": "2026-03-02T11:00:00Z"}
    harness.set_status(state="Hibernating", reason="Eco", manual=manual, message="Later.")
    await harness.reconcile()
    assert (harness.status.target, harness.status.reason) == ("Loaded", "Manual")


BUSY = {"name": "busy", "cron": "*/10 * * * *", "state": "Loaded"}


class TestWrites:
    async def at_rest(self, **spec: Any) -> ReconcileHarness:
        """Return a model that has been loaded for some seconds."""
        harness = ReconcileHarness(**spec)
        await harness.reconcile()
        harness.start_pod()
        harness.server = IdleServer(harness)
        await harness.pass_time(timedelta(seconds=5))
        assert harness.status.state == "Loaded"
        harness.api.writes.clear()
        return harness

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"desiredState": "Loaded"}, id="as desired"),
            pytest.param({"schedule": {"entries": [BUSY]}}, id="by an entry that fires every ten minutes"),
        ],
    )
    async def test_idle_model_writes_nothing_for_two_hours(self, spec: dict[str, Any]) -> None:
        harness = await self.at_rest(**spec)
        await harness.pass_time(timedelta(hours=2))
        assert harness.api.writes == []

    async def test_each_transition_is_written_once(self) -> None:
        evening = {**EVENING, "cron": "5 13 * * *"}
        harness = await self.at_rest(schedule={"entries": [{**BUSY, "cron": "*/10 0-12 * * *"}, evening]})
        await harness.pass_time(timedelta(hours=1))
        assert harness.api.writes == []
        await harness.pass_time(timedelta(hours=1))
        event = f"/apis/events.k8s.io/v1/namespaces/{KEY.namespace}/events"
        assert harness.api.writes == ["Unloaded", event]

    async def test_schedule_lag_ends_with_the_call(self) -> None:
        morning = {"name": "morning", "cron": "0 7 * * *", "state": "Loaded"}
        harness = await self.at_rest(schedule={"entries": [morning, EVENING]})
        harness.now = harness.now.replace(hour=20, second=0, microsecond=300_000)
        await harness.reconcile()
        harness.now += timedelta(seconds=5)
        await harness.reconcile()
        lags = [
            family for family in harness.model_metrics.collect() if family.name == "whispermodel_schedule_lag_seconds"
        ]
        assert [sample.value for sample in lags[0].samples] == [0.3]
