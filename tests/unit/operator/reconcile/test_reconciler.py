"""What one reconciliation leaves to the next: against an API server in memory, with a pod's server in this process."""

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
from whispermodel.spec import Mode


async def test_a_spec_that_changed_while_the_status_was_written_is_looked_at_at_once() -> None:
    harness = ReconcileHarness(desiredState="Zero")
    harness.api.coming = {"model": {"size": "base"}, "desiredState": "Loaded"}
    assert await harness.reconcile() == NOON
    assert await harness.reconcile() != NOON
    assert harness.status.target == "Loaded"


async def test_a_start_takes_no_longer_than_somebody_waits_for_the_model() -> None:
    harness = ReconcileHarness(desiredState="Unloaded")
    await harness.reconcile()
    harness.start_pod()
    await harness.reconcile()
    harness.now += timedelta(hours=9)
    harness.ask(desiredState="Loaded")
    await harness.reconcile()
    await harness.reconcile()
    assert harness.status.recent_start_seconds == (2.5,)


async def test_a_demand_that_ended_while_the_pod_started_leaves_the_model_loaded_for_its_idle_time() -> None:
    harness = ReconcileHarness(idle={"unloadAfter": "10s"})
    harness.store.leases.put(lease_of(renewed=NOON, lasts=15))
    await harness.reconcile()
    harness.start_pod()
    harness.now += timedelta(seconds=20)
    harness.server = server = SlowLoadServer()
    await harness.reconcile()
    await harness.reconcile()
    assert harness.status.state == "Loading"
    harness.now += timedelta(seconds=30)
    server.may_end.set()
    await asyncio.sleep(0)
    await harness.reconcile()
    assert (harness.status.state, harness.status.idle_since) == ("Loaded", harness.now)


async def test_a_load_that_a_request_brought_is_told_once_however_often_the_pod_tells_of_it() -> None:
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


async def test_a_pod_is_called_before_anything_is_written_and_what_it_does_is_told_right_after() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    harness.start_pod()
    harness.server = SlowLoadServer()
    harness.api.writes.clear()
    assert await harness.reconcile() == harness.now
    assert harness.api.writes == []
    assert await harness.reconcile() != harness.now
    assert harness.api.writes[0] == "Loading"


async def test_one_that_does_not_lead_any_more_neither_writes_nor_calls_a_pod_nor_takes_that_for_a_failure() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    harness.start_pod()
    harness.server = SlowLoadServer()
    harness.api.writes.clear()
    harness.leads = False
    await harness.reconcile()
    with pytest.raises(NotLeading):
        await harness.reconcile()
    assert harness.api.writes == []
    await asyncio.sleep(0.01)
    assert (harness.pod_calls.in_progress(KEY, "uid-base-1"), harness.pod_calls.take(KEY)) == (None, [])
    assert KEY in harness.seen, "if it leads after all, it looks again"
    assert harness.reconciler.memories[KEY].receipts.unreported.failure is None


async def test_a_spec_that_cannot_be_obeyed_is_told_by_the_metrics_too() -> None:
    harness = ReconcileHarness(model={"size": "enormous"})
    await harness.reconcile()
    assert harness.condition("Ready").reason == "InvalidSpec"
    conditions = [family for family in harness.model_metrics.collect() if family.name == "whispermodel_condition"]
    assert {sample.labels["type"]: sample.labels["status"] for sample in conditions[0].samples}["Ready"] == "False"


async def test_who_may_reach_the_pods_is_applied_once_and_taken_back_when_everybody_may_again() -> None:
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


async def test_without_that_setting_there_is_no_policy() -> None:
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
async def test_a_load_by_hand_holds_again_after_what_hands_over_to_demand(spec: dict[str, Any]) -> None:
    harness = ReconcileHarness(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"}, **spec)
    harness.set_status(state="Zero", target="Zero", manual={"state": "Loaded", "at": "2026-03-02T11:00:00Z"})
    check_at = await harness.reconcile()
    assert (harness.status.target, harness.status.reason) == ("Zero", "Idle")
    harness.now += timedelta(hours=1)
    assert check_at == harness.now
    await harness.reconcile()
    assert (harness.status.target, harness.status.reason) == ("Loaded", "Manual")


async def test_a_fire_ends_a_load_by_hand_also_under_an_override() -> None:
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
        """Have the node refuse these pods, one after the other."""
        await harness.reconcile()
        for name in names:
            harness.now += timedelta(seconds=1)
            harness.show_pod(name, phase="Failed", reason="UnexpectedAdmissionError", message=self.NO_GPU)
        await harness.reconcile()

    async def test_pods_that_their_node_refuses_are_told(self) -> None:
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

    async def test_however_many_they_are_they_are_told_once(self) -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        await self.refused(harness, "base-1")
        told = harness.status
        harness.now += timedelta(minutes=1)
        await self.refused(harness, "base-2", "base-3")
        assert harness.status == told

    async def test_one_that_is_replaced_in_peace_is_soon_forgotten(self) -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        await self.refused(harness, "base-1")
        harness.show_pod("base-2", phase="Pending")
        assert await harness.reconcile() == harness.now + timedelta(minutes=2)
        harness.now += timedelta(minutes=2)
        await harness.reconcile()
        assert harness.status.state == "Starting"
        assert harness.condition("Degraded").status == "False"

    async def test_one_that_ended_before_the_model_went_to_zero_says_nothing_of_the_next_start(self) -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        await self.refused(harness, "base-1")
        harness.now += timedelta(hours=1)
        harness.ask(desiredState="Zero")
        await harness.reconcile()
        harness.ask(desiredState="Loaded")
        await harness.reconcile()
        await harness.reconcile()
        assert harness.status.state == "Starting"

    async def test_while_another_serves_the_model_is_ready_and_degraded(self) -> None:
        harness = ReconcileHarness(desiredState="Unloaded", replicas=2)
        await harness.reconcile()
        harness.start_pod()
        await self.refused(harness, "base-2")
        assert harness.status.state == "Unloaded"
        assert harness.condition("Ready").status == "True"
        assert harness.condition("Degraded").reason == "UnexpectedAdmissionError"


async def test_a_pod_whose_node_does_not_start_it_is_told_when_the_time_is_up() -> None:
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
    """Return a model of whose pods one is leaving, and the next finds no node."""
    harness = ReconcileHarness(desiredState="Loaded")
    await harness.reconcile()
    nowhere = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: insufficient nvidia.com/gpu"}]
    harness.show_pod("base-1", phase="Running", leaving=True)
    harness.show_pod("base-2", phase="Pending", conditions=nowhere)
    return harness


async def test_a_pod_that_finds_no_room_is_no_failure_while_the_one_before_it_has_work_to_finish() -> None:
    harness = await without_room()
    await harness.reconcile()
    assert (harness.status.state, harness.condition("Degraded").status) == ("Starting", "False")
    assert "waits until the one before it" in harness.condition("Progressing").message
    [old] = [pod for pod in harness.store.pods.of(KEY) if pod.leaving]
    harness.store.pods.remove(old)
    await harness.reconcile()
    assert (harness.status.state, harness.condition("Degraded").reason) == ("Failed", "Unschedulable")


async def test_a_pod_that_should_be_gone_long_ago_hides_no_longer_that_the_next_finds_no_room() -> None:
    # Its node is lost: nobody says that it has ended.
    harness = await without_room()
    check_at = await harness.reconcile()
    assert check_at is not None
    harness.now = check_at
    await harness.reconcile()
    assert harness.now < NOON + timedelta(hours=2)
    assert (harness.status.state, harness.condition("Degraded").reason) == ("Failed", "Unschedulable")


async def test_what_the_api_server_forbids_is_logged_once_and_told() -> None:
    harness = ReconcileHarness(desiredState="Loaded")
    harness.api.forbids = DEPLOYMENTS.path(KEY.namespace, KEY.name)
    with capture_logs() as logs:
        await harness.reconcile()
        await harness.reconcile()
    refusals = [line for line in logs if line["event"] == "child.refused"]
    assert [(line["log_level"], line["reason"]) for line in refusals] == [("warning", "DeploymentRefused")]
    assert "exceeded quota: none" in refusals[0]["message"]
    assert harness.condition("Degraded").reason == "DeploymentRefused"
    harness.api.forbids = None
    harness.now += timedelta(minutes=1)
    await harness.reconcile()
    assert harness.condition("Degraded").status == "False"


async def test_a_start_does_not_count_for_how_long_another_scaler_kept_the_model_at_zero() -> None:
    harness = ReconcileHarness(desiredState="Zero")
    await harness.reconcile()
    harness.ask(desiredState="Loaded")
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
async def test_what_a_deployment_has_lost_of_its_metadata_it_is_given_again(loss: dict[str, Any]) -> None:
    harness = ReconcileHarness(desiredState="Zero")
    await harness.reconcile()
    path = DEPLOYMENTS.path(KEY.namespace, KEY.name)
    there = harness.api.objects[path]
    harness.store.deployments.put(
        Deployment.model_validate(harness.api.put(path, {**there, "metadata": {**there["metadata"], **loss}}))
    )
    await harness.reconcile()
    mended = harness.api.objects[path]["metadata"]
    assert {field: mended[field] for field in loss} == {field: there["metadata"][field] for field in loss}


async def test_a_status_of_a_later_version_is_taken_for_what_it_says_in_words_that_are_known() -> None:
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
    async def test_in_two_hours_in_which_nothing_happens_nothing_is_written(self, spec: dict[str, Any]) -> None:
        harness = await self.at_rest(**spec)
        await harness.pass_time(timedelta(hours=2))
        assert harness.api.writes == []

    async def test_each_transition_among_them_is_written_once(self) -> None:
        evening = {**EVENING, "cron": "5 13 * * *"}
        harness = await self.at_rest(schedule={"entries": [{**BUSY, "cron": "*/10 0-12 * * *"}, evening]})
        await harness.pass_time(timedelta(hours=1))
        assert harness.api.writes == []
        await harness.pass_time(timedelta(hours=1))
        event = f"/apis/events.k8s.io/v1/namespaces/{KEY.namespace}/events"
        assert harness.api.writes == ["Unloaded", event]

    async def test_a_schedule_is_as_late_as_its_call_and_not_as_what_is_written_of_it(self) -> None:
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
