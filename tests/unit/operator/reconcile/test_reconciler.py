"""What one reconciliation leaves to the next: against an API server in memory, with a pod's server in this process."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from testing.operator_harness import LABEL, NOON, lease_of
from testing.planner_cases import EVENING, exception
from testing.reconcile_harness import KEY, Around, Loading, Told, Worked
from whisper_cluster.api import DEPLOYMENTS, NETWORK_POLICIES
from whisper_cluster.errors import NotLeading
from whisper_cluster.objects import Deployment
from whispermodel.spec import Mode


async def test_a_spec_that_changed_while_the_status_was_written_is_looked_at_at_once() -> None:
    around = Around(desiredState="Zero")
    around.api.coming = {"model": {"size": "base"}, "desiredState": "Loaded"}
    assert await around.reconcile() == NOON
    assert await around.reconcile() != NOON
    assert around.status.target == "Loaded"


async def test_a_start_takes_no_longer_than_somebody_waits_for_the_model() -> None:
    around = Around(desiredState="Unloaded")
    await around.reconcile()
    around.start_pod()
    await around.reconcile()
    around.now += timedelta(hours=9)
    around.ask(desiredState="Loaded")
    await around.reconcile()
    await around.reconcile()
    assert around.status.recent_start_seconds == (2.5,)


async def test_a_demand_that_ended_while_the_pod_started_leaves_the_model_loaded_for_its_idle_time() -> None:
    around = Around(idle={"unloadAfter": "10s"})
    around.store.leases.put(lease_of(renewed=NOON, lasts=15))
    await around.reconcile()
    around.start_pod()
    around.now += timedelta(seconds=20)
    around.server = server = Loading()
    await around.reconcile()
    await around.reconcile()
    assert around.status.state == "Loading"
    around.now += timedelta(seconds=30)
    server.may_end.set()
    await asyncio.sleep(0)
    await around.reconcile()
    assert (around.status.state, around.status.idle_since) == ("Loaded", around.now)


async def test_a_load_that_a_request_brought_is_told_once_however_often_the_pod_tells_of_it() -> None:
    around = Around(desiredState="Loaded")
    await around.reconcile()
    around.start_pod()
    around.server = Told(around)
    for _ in range(3):
        around.now += timedelta(seconds=61)
        await around.reconcile()
        assert around.status.last_load is not None
        assert around.status.last_load.time == NOON - timedelta(seconds=30)
        assert around.status.recent_start_seconds == (2.5,)


async def test_a_pod_is_called_before_anything_is_written_and_what_it_does_is_told_right_after() -> None:
    around = Around(desiredState="Loaded")
    await around.reconcile()
    around.start_pod()
    around.server = Loading()
    around.api.writes.clear()
    assert await around.reconcile() == around.now
    assert around.api.writes == []
    assert await around.reconcile() != around.now
    assert around.api.writes[0] == "Loading"


async def test_one_that_does_not_lead_any_more_neither_writes_nor_calls_a_pod_nor_takes_that_for_a_failure() -> None:
    around = Around(desiredState="Loaded")
    await around.reconcile()
    around.start_pod()
    around.server = Loading()
    around.api.writes.clear()
    around.leads = False
    await around.reconcile()
    with pytest.raises(NotLeading):
        await around.reconcile()
    assert around.api.writes == []
    await asyncio.sleep(0.01)
    errands = around.reconciler.around.errands
    assert (errands.under_way(KEY, "uid-base-1"), errands.take(KEY)) == (None, [])
    assert KEY in around.seen, "if it leads after all, it looks again"
    assert around.reconciler.ledgers[KEY].news.failure is None


async def test_a_spec_that_cannot_be_obeyed_is_told_by_the_metrics_too() -> None:
    around = Around(model={"size": "enormous"})
    await around.reconcile()
    assert around.condition("Ready").reason == "InvalidSpec"
    conditions = [family for family in around.board.collect() if family.name == "whispermodel_condition"]
    assert {sample.labels["type"]: sample.labels["status"] for sample in conditions[0].samples}["Ready"] == "False"


async def test_who_may_reach_the_pods_is_applied_once_and_taken_back_when_everybody_may_again() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "gateway"}}}
    path = NETWORK_POLICIES.path(KEY.namespace, KEY.name)

    around = Around(allow_from=[peer], desiredState="Zero")
    await around.reconcile()
    assert around.api.objects[path]["spec"]["ingress"] == [{"from": [peer]}]
    version = around.api.objects[path]["metadata"]["resourceVersion"]
    await around.reconcile()
    assert around.api.objects[path]["metadata"]["resourceVersion"] == version
    around.restart(allow_from=None)
    await around.reconcile()
    assert around.api.objects[path]["spec"]["ingress"] == [{}]


async def test_without_that_setting_there_is_no_policy() -> None:
    around = Around(desiredState="Zero")
    await around.reconcile()
    assert NETWORK_POLICIES.path(KEY.namespace, KEY.name) not in around.api.objects


OPEN = exception("open", "2026-03-02T11:30:00Z", "2026-03-02T13:00:00Z", state=Mode.AUTO)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"override": {"state": "Auto", "until": "2026-03-02T13:00:00Z"}}, id="an override"),
        pytest.param({"schedule": {"exceptions": [OPEN]}}, id="an exception"),
    ],
)
async def test_a_load_by_hand_holds_again_after_what_hands_over_to_demand(spec: dict[str, Any]) -> None:
    around = Around(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"}, **spec)
    around.note(state="Zero", target="Zero", manual={"state": "Loaded", "at": "2026-03-02T11:00:00Z"})
    check_at = await around.reconcile()
    assert (around.status.target, around.status.reason) == ("Zero", "Idle")
    around.now += timedelta(hours=1)
    assert check_at == around.now
    await around.reconcile()
    assert (around.status.target, around.status.reason) == ("Loaded", "Manual")


async def test_a_fire_ends_a_load_by_hand_also_under_an_override() -> None:
    entries = [{"name": "eleven", "cron": "30 11 * * *", "state": "Auto"}]
    around = Around(schedule={"entries": entries}, override={"state": "Zero", "until": "2026-03-02T13:00:00Z"})
    around.note(manual={"state": "Loaded", "at": "2026-03-02T11:00:00Z"})
    await around.reconcile()
    assert around.status.manual is None


class TestPodsThatEnd:
    NO_GPU = "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu"

    async def refused(self, around: Around, *names: str) -> None:
        """Have the node refuse these pods, one after the other."""
        await around.reconcile()
        for name in names:
            around.now += timedelta(seconds=1)
            around.show_pod(name, phase="Failed", reason="UnexpectedAdmissionError", message=self.NO_GPU)
        await around.reconcile()

    async def test_pods_that_their_node_refuses_are_told(self) -> None:
        around = Around(desiredState="Loaded")
        await self.refused(around, "base-1", "base-2", "base-3")
        status = around.status
        assert (status.state, status.target) == ("Failed", "Loaded")
        assert status.message.startswith(f"A pod has failed on its node: {self.NO_GPU}. Wanted: ")
        assert status.last_failure is not None
        assert status.last_failure.reason == "UnexpectedAdmissionError"
        degraded, ready = around.condition("Degraded"), around.condition("Ready")
        assert (degraded.status, degraded.reason) == ("True", "UnexpectedAdmissionError")
        assert (ready.status, ready.reason) == ("False", "UnexpectedAdmissionError")

    async def test_however_many_they_are_they_are_told_once(self) -> None:
        around = Around(desiredState="Loaded")
        await self.refused(around, "base-1")
        told = around.status
        around.now += timedelta(minutes=1)
        await self.refused(around, "base-2", "base-3")
        assert around.status == told

    async def test_one_that_is_replaced_in_peace_is_soon_forgotten(self) -> None:
        around = Around(desiredState="Loaded")
        await self.refused(around, "base-1")
        around.show_pod("base-2", phase="Pending")
        assert await around.reconcile() == around.now + timedelta(minutes=2)
        around.now += timedelta(minutes=2)
        await around.reconcile()
        assert around.status.state == "Starting"
        assert around.condition("Degraded").status == "False"

    async def test_one_that_ended_before_the_model_went_to_zero_says_nothing_of_the_next_start(self) -> None:
        around = Around(desiredState="Loaded")
        await self.refused(around, "base-1")
        around.now += timedelta(hours=1)
        around.ask(desiredState="Zero")
        await around.reconcile()
        around.ask(desiredState="Loaded")
        await around.reconcile()
        await around.reconcile()
        assert around.status.state == "Starting"

    async def test_while_another_serves_the_model_is_ready_and_degraded(self) -> None:
        around = Around(desiredState="Unloaded", replicas=2)
        await around.reconcile()
        around.start_pod()
        await self.refused(around, "base-2")
        assert around.status.state == "Unloaded"
        assert around.condition("Ready").status == "True"
        assert around.condition("Degraded").reason == "UnexpectedAdmissionError"


async def test_a_pod_whose_node_does_not_start_it_is_told_when_the_time_is_up() -> None:
    around = Around(desiredState="Loaded")
    await around.reconcile()
    taken = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": NOON.isoformat()}]
    around.show_pod("base-1", phase="Pending", conditions=taken)
    check_at = await around.reconcile()
    assert around.condition("Degraded").status == "False"
    around.now += timedelta(minutes=2)
    assert check_at == around.now
    await around.reconcile()
    assert (around.status.state, around.condition("Degraded").reason) == ("Starting", "StartTimeout")


async def without_room() -> Around:
    """Return a model of whose pods one is leaving, and the next finds no node."""
    around = Around(desiredState="Loaded")
    await around.reconcile()
    nowhere = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: insufficient nvidia.com/gpu"}]
    around.show_pod("base-1", phase="Running", leaving=True)
    around.show_pod("base-2", phase="Pending", conditions=nowhere)
    return around


async def test_a_pod_that_finds_no_room_is_no_failure_while_the_one_before_it_has_work_to_finish() -> None:
    around = await without_room()
    await around.reconcile()
    assert (around.status.state, around.condition("Degraded").status) == ("Starting", "False")
    assert "waits until the one before it" in around.condition("Progressing").message
    [old] = [pod for pod in around.store.pods.of(KEY) if pod.leaving]
    around.store.pods.remove(old)
    await around.reconcile()
    assert (around.status.state, around.condition("Degraded").reason) == ("Failed", "Unschedulable")


async def test_a_pod_that_should_be_gone_long_ago_hides_no_longer_that_the_next_finds_no_room() -> None:
    # Its node is lost: nobody says that it has ended.
    around = await without_room()
    check_at = await around.reconcile()
    assert check_at is not None
    around.now = check_at
    await around.reconcile()
    assert around.now < NOON + timedelta(hours=2)
    assert (around.status.state, around.condition("Degraded").reason) == ("Failed", "Unschedulable")


async def test_what_the_api_server_forbids_is_logged_once_and_told() -> None:
    around = Around(desiredState="Loaded")
    around.api.forbids = DEPLOYMENTS.path(KEY.namespace, KEY.name)
    with capture_logs() as logs:
        await around.reconcile()
        await around.reconcile()
    refusals = [line for line in logs if line["event"] == "child.refused"]
    assert [(line["log_level"], line["reason"]) for line in refusals] == [("warning", "DeploymentRefused")]
    assert "exceeded quota: none" in refusals[0]["message"]
    assert around.condition("Degraded").reason == "DeploymentRefused"
    around.api.forbids = None
    around.now += timedelta(minutes=1)
    await around.reconcile()
    assert around.condition("Degraded").status == "False"


async def test_a_start_does_not_count_for_how_long_another_scaler_kept_the_model_at_zero() -> None:
    around = Around(desiredState="Zero")
    await around.reconcile()
    around.ask(desiredState="Loaded")
    around.scale(0, by="keda")
    await around.reconcile()
    around.now += timedelta(hours=9)
    around.scale(1, by="keda")
    around.start_pod()
    await around.reconcile()
    await around.reconcile()
    assert around.status.recent_start_seconds == (2.5,)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param({"ownerReferences": []}, id="owner"),
        pytest.param({"labels": {LABEL: "base"}}, id="labels"),
        pytest.param({"annotations": {}}, id="annotation"),
    ],
)
async def test_what_a_deployment_has_lost_of_its_metadata_it_is_given_again(loss: dict[str, Any]) -> None:
    around = Around(desiredState="Zero")
    await around.reconcile()
    path = DEPLOYMENTS.path(KEY.namespace, KEY.name)
    there = around.api.objects[path]
    around.store.deployments.put(
        Deployment.model_validate(around.api.put(path, {**there, "metadata": {**there["metadata"], **loss}}))
    )
    await around.reconcile()
    mended = around.api.objects[path]["metadata"]
    assert {field: mended[field] for field in loss} == {field: there["metadata"][field] for field in loss}


async def test_a_status_of_a_later_version_is_taken_for_what_it_says_in_words_that_are_known() -> None:
    around = Around()
    manual = {"state": "Loaded", "at": "2026-03-02T11:00:00Z"}
    around.note(state="Hibernating", reason="Eco", manual=manual, message="Later.")
    await around.reconcile()
    assert (around.status.target, around.status.reason) == ("Loaded", "Manual")


BUSY = {"name": "busy", "cron": "*/10 * * * *", "state": "Loaded"}


class TestWrites:
    async def at_rest(self, **spec: Any) -> Around:
        """Return a model that has been loaded for some seconds."""
        around = Around(**spec)
        await around.reconcile()
        around.start_pod()
        around.server = Worked(around)
        await around.pass_time(timedelta(seconds=5))
        assert around.status.state == "Loaded"
        around.api.writes.clear()
        return around

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"desiredState": "Loaded"}, id="as desired"),
            pytest.param({"schedule": {"entries": [BUSY]}}, id="by an entry that fires every ten minutes"),
        ],
    )
    async def test_in_two_hours_in_which_nothing_happens_nothing_is_written(self, spec: dict[str, Any]) -> None:
        around = await self.at_rest(**spec)
        await around.pass_time(timedelta(hours=2))
        assert around.api.writes == []

    async def test_each_transition_among_them_is_written_once(self) -> None:
        evening = {**EVENING, "cron": "5 13 * * *"}
        around = await self.at_rest(schedule={"entries": [{**BUSY, "cron": "*/10 0-12 * * *"}, evening]})
        await around.pass_time(timedelta(hours=1))
        assert around.api.writes == []
        await around.pass_time(timedelta(hours=1))
        event = f"/apis/events.k8s.io/v1/namespaces/{KEY.namespace}/events"
        assert around.api.writes == ["Unloaded", event]

    async def test_a_schedule_is_as_late_as_its_call_and_not_as_what_is_written_of_it(self) -> None:
        morning = {"name": "morning", "cron": "0 7 * * *", "state": "Loaded"}
        around = await self.at_rest(schedule={"entries": [morning, EVENING]})
        around.now = around.now.replace(hour=20, second=0, microsecond=300_000)
        await around.reconcile()
        around.now += timedelta(seconds=5)
        await around.reconcile()
        lags = [family for family in around.board.collect() if family.name == "whispermodel_schedule_lag_seconds"]
        assert [sample.value for sample in lags[0].samples] == [0.3]
