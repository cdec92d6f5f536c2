"""The operator at a real API server, with real Deployments."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from testing.live_model import LiveModel, stamp
from testing.operator_process import OperatorProcess, eventually
from testing.pod_stand_in import PodServer

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def unhurried(model: LiveModel) -> None:
    """Loads and unloads that are slow enough to be reported while they last."""

    def prepare(server: PodServer) -> None:
        server.load_seconds, server.unload_seconds = 4.0, 1.0

    model.kubelet.prepare = prepare


def test_unused_model_costs_nothing(model: LiveModel) -> None:
    model.apply(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"})
    status = model.wait_for(state="Zero", target="Zero", reason="Idle")
    assert status["message"] == "Zero until a request arrives."
    assert model.deployment()["spec"]["replicas"] == 0
    assert model.condition("Ready")["status"] == "True", "a request would be served after waking"
    assert model.pods() == []


def test_loaded_is_reported_with_receipt_and_memory(model: LiveModel, unhurried: None) -> None:
    model.apply(desiredState="Loaded")
    status = model.wait_for(state="Loaded")
    assert status["lastLoad"]["trigger"] == "DesiredState"
    assert status["lastLoad"]["seconds"] == pytest.approx(4.0)
    assert status["recentStartSeconds"][0] >= 4.0
    assert status["replicas"] == {"desired": 1, "ready": 1, "loaded": 1}
    assert eventually(lambda: model.status.get("memory"), "memory")["summary"] == "340Mi"
    assert model.condition("ModelLoaded")["status"] == "True"
    model.wait_for_events("Waking", "Loading", "Loaded")


def test_unload_reports_freed_memory_and_keeps_the_pod(model: LiveModel) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    model.apply(desiredState="Unloaded")
    status = model.wait_for(state="Unloaded")
    assert status["lastUnload"]["freedResidentBytes"] == 300 * 2**20
    assert status["lastUnload"]["fullyReleased"] is True
    assert len(model.pods()) == 1
    [server] = model.servers()
    assert "POST /model/unload?depth=cold&timeout=30" in server.calls


def test_zero_unloads_before_deleting_the_pod(model: LiveModel, unhurried: None) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    model.apply(desiredState="Zero")
    status = model.wait_for(state="Zero")
    assert status["lastUnload"]["freedResidentBytes"] == 300 * 2**20
    assert status["replicas"] == {"desired": 0, "ready": 0, "loaded": 0}
    assert "memory" not in status
    eventually(lambda: model.pods() == [], "no pod is left")
    # Each transition has one Event, and there is no detour.
    model.wait_for_events("Waking", "Loading", "Loaded", "Unloading", "ScaledToZero")


def test_demand_wakes_the_model_until_it_ends(model: LiveModel) -> None:
    model.apply(desiredState="Zero", idle={"unloadAfter": "1s"})
    model.wait_for(state="Zero")
    model.demand(seconds=600)
    assert model.wait_for(state="Loaded")["reason"] == "Demand"
    model.demand(seconds=1, renewed=datetime.now(UTC) - timedelta(seconds=2))
    model.wait_for(state="Zero")
    eventually(lambda: model.pods() == [], "no pod is left")


def test_load_by_a_request_leaves_a_receipt(model: LiveModel) -> None:
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    [server] = model.servers()
    server.work()
    model.demand()
    status = model.wait_for(state="Loaded")
    assert (status["lastLoad"]["trigger"], status["lastLoad"]["seconds"]) == ("Demand", pytest.approx(0.05))
    assert "POST /model/load" not in server.calls


def test_demand_does_not_wake_a_suspended_model(model: LiveModel) -> None:
    model.apply(suspend=True, idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"})
    model.wait_for(reason="Suspended")
    model.demand()
    model.apply(suspend=True, idle={"unloadAfter": "14m", "scaleToZeroAfter": "1h"})
    eventually(lambda: model.status["observedGeneration"] == 2, "the second spec was seen")
    assert model.status["state"] == "Zero"
    assert model.condition("Ready") | {"lastTransitionTime": ""} == {
        "type": "Ready",
        "status": "False",
        "reason": "Suspended",
        "message": "Nothing wakes the model while it is suspended.",
        "lastTransitionTime": "",
        "observedGeneration": 2,
    }


def test_unload_waits_for_running_work(model: LiveModel) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    [server] = model.servers()
    server.work()
    model.apply(desiredState="Zero", idle={"unloadAfter": "0s"})
    status = model.wait_for(observedGeneration=2)
    assert (status["state"], status["reason"]) == ("Loaded", "Demand")
    server.finish()
    model.wait_for(state="Zero")


def test_idle_model_unloads_warm_then_cold_then_goes_to_zero(model: LiveModel, unhurried: None) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    [server] = model.servers()
    server.work()
    server.finish()
    model.apply(idle={"unloadAfter": "3s", "scaleToZeroAfter": "9s"})
    model.wait_for(state="Unloaded", reason="Idle")
    assert "POST /model/unload?depth=warm&timeout=30" in server.calls
    status = model.wait_for(state="Zero", reason="Idle")
    assert "POST /model/unload?depth=cold&timeout=30" in server.calls
    assert "idle since" in status["message"]
    model.wait_for_events("Waking", "Loading", "Loaded", "Unloading", "Unloaded", "Unloading", "ScaledToZero")


def test_refusing_model_is_not_ready_and_says_until_when(model: LiveModel) -> None:
    entries = [{"name": "always", "cron": "* * * * *", "state": "Unloaded"}]
    model.apply(demandPolicy="Refuse", schedule={"entries": entries})
    ready = model.wait_for_condition("Ready", "False")
    assert (ready["reason"], ready["message"]) == ("Refused", "New requests are refused: demandPolicy is Refuse.")


def test_override_holds_until_it_expires(model: LiveModel) -> None:
    override = {"state": "Loaded", "reason": "release test"}
    until = datetime.now(UTC) + timedelta(hours=1)
    model.apply(desiredState="Zero", override=override | {"until": until.isoformat()})
    status = model.wait_for(state="Loaded")
    assert status["reason"] == "Override"
    assert "override (release test)" in status["message"]
    assert status["nextTransition"]["state"] == "Zero"
    until = datetime.now(UTC) + timedelta(seconds=2)
    model.apply(desiredState="Zero", override=override | {"until": until.isoformat()})
    model.wait_for(state="Zero", reason="DesiredState")
    assert datetime.now(UTC) >= until


def test_manual_load_through_a_gateway_holds(model: LiveModel) -> None:
    model.apply(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"})
    model.wait_for(state="Zero")
    at = datetime.now(UTC)
    model.demand(seconds=1, renewed=at - timedelta(seconds=5), manual=json.dumps({"state": "Loaded", "at": stamp(at)}))
    status = model.wait_for(state="Loaded")
    assert status["reason"] == "Manual"
    assert status["manual"]["state"] == "Loaded"


def test_each_replica_loads_as_soon_as_it_can(model: LiveModel) -> None:
    model.apply(desiredState="Loaded", replicas=3)
    status = model.wait_for(replicas={"desired": 3, "ready": 3, "loaded": 3})
    assert status["state"] == "Loaded"
    assert status["memory"]["residentBytes"] == 3 * 340 * 2**20
    model.apply(desiredState="Loaded", replicas=1)
    model.wait_for(replicas={"desired": 1, "ready": 1, "loaded": 1})


@pytest.mark.parametrize(
    ("fate", "reason", "words"),
    [
        pytest.param("image-missing", "ImagePull", "not found", id="a missing image"),
        pytest.param("unschedulable", "Unschedulable", "Insufficient nvidia.com/gpu", id="no node with room"),
        pytest.param("crash", "Crash", "exited with code 3: no disk", id="a crash"),
        pytest.param("oom", "OutOfMemory", "raise the limit in spec.pod.resources", id="too little memory"),
    ],
)
def test_pod_that_cannot_start_shows_its_root_cause(model: LiveModel, fate: str, reason: str, words: str) -> None:
    model.kubelet.fate = fate
    model.apply(desiredState="Loaded")
    degraded = model.wait_for_condition("Degraded", "True")
    assert degraded["reason"] == reason
    assert words in degraded["message"]
    status = model.status
    assert status["state"] == "Failed"
    assert status["lastFailure"]["reason"] == reason
    assert words in status["message"], "where people look first"
    assert model.condition("Ready")["status"] == "False"
    model.kubelet.reset()
    for pod in model.pods():
        model.api.client().delete(f"/api/v1/namespaces/{model.namespace}/pods/{pod['metadata']['name']}")
    assert model.wait_for(state="Loaded")["lastFailure"]["reason"] == reason, "the last failure survives"


def test_refused_deployment_is_reported_with_its_field(model: LiveModel) -> None:
    model.apply(desiredState="Loaded", pod={"env": [{"value": "nameless"}]})
    degraded = model.wait_for_condition("Degraded", "True")
    assert degraded["reason"] == "DeploymentRefused"
    assert "name" in degraded["message"]
    assert model.status["state"] == "Failed"
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")


def forbid(model: LiveModel, resource: str) -> None:
    """Set the quota of a resource to zero in the model's namespace."""
    path = f"/api/v1/namespaces/{model.namespace}/resourcequotas/none"
    head = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    model.api.apply(path, {**head, "spec": {"hard": {resource: "0"}}})
    # No controller counts quotas in these tests.
    model.api.apply(f"{path}/status", {**head, "status": {"hard": {resource: "0"}, "used": {resource: "0"}}})


def test_deployment_over_quota_is_reported(model: LiveModel) -> None:
    forbid(model, "count/deployments.apps")
    model.apply(desiredState="Loaded")
    degraded = model.wait_for_condition("Degraded", "True")
    assert degraded["reason"] == "DeploymentRefused"
    assert "exceeded quota: none" in degraded["message"]
    assert model.status["lastFailure"]["reason"] == "DeploymentRefused"


def test_pods_over_quota_are_reported(model: LiveModel) -> None:
    model.apply(desiredState="Zero")
    model.wait_for(state="Zero")
    forbid(model, "pods")
    model.apply(desiredState="Loaded")
    degraded = model.wait_for_condition("Degraded", "True")
    assert degraded["reason"] == "PodsRefused"
    assert "none" in degraded["message"]


def test_failed_load_shows_the_servers_message_and_is_retried(model: LiveModel) -> None:
    words = "the weights at /models/x.pt are damaged: download them again"

    def refuse(server: object) -> None:
        server.refuses = words  # type: ignore[attr-defined]

    model.kubelet.prepare = refuse
    model.apply(desiredState="Loaded")
    failed = eventually(lambda: model.status.get("lastFailure"), "a failure")
    assert (failed["reason"], failed["message"]) == ("LoadFailed", words)
    [server] = model.servers()
    server.refuses = None
    model.wait_for(state="Loaded")


@pytest.mark.parametrize("fault", ["garbage", "silence", "error"])
def test_faulty_pod_is_degraded_and_not_idle(model: LiveModel, fault: str) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    [server] = model.servers()
    server.fault = fault
    model.apply(desiredState="Zero")
    degraded = model.wait_for_condition("Degraded", "True")
    assert degraded["reason"] == "Unreachable"
    # The fault may have been seen before the spec was.
    status = model.wait_for(state="Loaded", target="Loaded", reason="Demand")
    assert "assumed busy for up to 5m" in status["message"]
    server.fault = None
    model.wait_for(state="Zero")


def test_slow_pod_is_waited_for(model: LiveModel) -> None:
    def slow_down(server: PodServer) -> None:
        answer = server._status

        async def late(request: web.Request) -> web.Response:
            await asyncio.sleep(1)
            return await answer(request)

        server._status = late  # type: ignore[method-assign]

    model.kubelet.prepare = slow_down
    model.apply(desiredState="Loaded")
    status = model.wait_for(state="Loaded")
    assert "lastFailure" not in status
    assert model.condition("Degraded")["status"] == "False"
    model.apply(desiredState="Zero")
    model.wait_for(state="Zero")


def test_drift_and_deleted_objects_are_repaired(model: LiveModel) -> None:
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    path = f"/apis/apps/v1/namespaces/{model.namespace}/deployments/{model.name}"
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "inference", "image": "other:1"}]}}}}
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    model.api.client().patch(path, content=json.dumps(patch), headers=headers)

    def image() -> str:
        return model.deployment()["spec"]["template"]["spec"]["containers"][0]["image"]

    eventually(lambda: image() == "whisper-inference:0.1.0", "the image is ours again")
    service = f"/api/v1/namespaces/{model.namespace}/services/{model.name}"
    model.api.client().delete(service)
    eventually(lambda: model.api.client().get(service).is_success, "the Service is there again")


def test_other_scaler_is_left_alone_until_its_claim_is_dropped(model: LiveModel) -> None:
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    model.api.kubectl("scale", "deployment", model.name, "-n", model.namespace, "--replicas=2")
    conflict = model.wait_for_condition("ScalerConflict", "True")
    assert "'kubectl' also sets the Deployment's replicas" in conflict["message"]
    eventually(lambda: len(model.pods()) == 2, "the other one's pods stay")
    assert model.deployment()["spec"]["replicas"] == 2
    patch = '{"metadata":{"managedFields":[{}]}}'
    assert patch in conflict["message"]
    model.api.kubectl("patch", "deployment", model.name, "-n", model.namespace, "--type=merge", "-p", patch)
    model.wait_for_condition("ScalerConflict", "False")
    eventually(lambda: len(model.pods()) == 1, "one pod, as asked")


def test_update_strategy_follows_the_replicas(model: LiveModel) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    for replicas, strategy in ((2, rolling), (1, {"type": "Recreate"}), (2, rolling)):
        model.apply(desiredState="Zero", replicas=replicas)
        eventually(
            lambda wanted=strategy: model.deployment().get("spec", {}).get("strategy") == wanted,
            f"{replicas} pods: {strategy}",
        )


def test_changed_size_replaces_the_pod_without_losing_work(model: LiveModel) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    [old] = model.servers()
    old.work()
    model.apply(desiredState="Loaded", model={"size": "base"})
    eventually(lambda: any(one["metadata"].get("deletionTimestamp") for one in model.pods()), "the old pod drains")
    words = "waiting for the previous one to finish its work"
    eventually(lambda: words in model.condition("Progressing")["message"], "Progressing names the cause")
    assert model.servers() == [old], "the old one goes on while it works, and no other comes"
    old.finish()
    eventually(lambda: model.servers() and old not in model.servers(), "the new pod alone is left")
    model.wait_for(state="Loaded")
    environment = model.deployment()["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "WHISPER_MODEL", "value": "base"} in environment


def test_invalid_schedule_keeps_the_last_target(model: LiveModel) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    entries = [{"name": "evening", "cron": "0 20 * * *", "state": "Unloaded"}]
    model.apply(schedule={"timeZone": "Europe/Atlantis", "entries": entries})
    found = model.wait_for_condition("ScheduleValid", "False")
    assert "Europe/Atlantis" in found["message"]
    assert model.status["target"] == "Loaded"


def test_nothing_is_written_while_nothing_changes(model: LiveModel) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    eventually(lambda: model.status.get("memory"), "the figures are there")
    before = len(model.writes("whispermodels", subresource="status")) + len(model.writes("deployments"))
    [server] = model.servers()
    seen = len(server.calls)
    eventually(lambda: len(server.calls) >= seen + 2, "it looked again", seconds=60)
    assert len(model.writes("whispermodels", subresource="status")) + len(model.writes("deployments")) == before


def test_metrics_follow_the_model_and_disappear_with_it(model: LiveModel, operator: OperatorProcess) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    mine = {"namespace": model.namespace, "whispermodel": model.name}

    def series() -> dict[str, float]:
        families = text_string_to_metric_families(operator.metrics())
        samples = [sample for family in families for sample in family.samples]
        return {
            f"{sample.name} {sample.labels.get('state', '')}": sample.value
            for sample in samples
            if mine.items() <= sample.labels.items()
        }

    assert series()["whispermodel_state Loaded"] == 1
    assert operator.health() == 200
    model.api.client().delete(model.path)
    eventually(lambda: not series(), "its series are gone")
