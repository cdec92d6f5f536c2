"""What one reconciliation leaves to the next: against an API server in memory, with a pod's server in this process."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from kubernetes.aio import client
from structlog.testing import capture_logs

from benchmarks.operator_bench.simulated_api import Answer, SimulatedApi
from tests.operator_scene import LABEL, NOON, lease_of
from tests.planner_scene import EVENING, exception
from whisper_operator.board import Board
from whisper_operator.cluster import DEPLOYMENTS, NETWORK_POLICIES, WHISPER_MODELS, Cluster
from whisper_operator.errands import Errands
from whisper_operator.events import Recorder
from whisper_operator.keys import Keys
from whisper_operator.kinds import Deployment, Pod, WhisperModelObject
from whisper_operator.metrics import Metrics
from whisper_operator.pods import Http, Pods, Reply
from whisper_operator.reconcile import Reconciler, Surroundings
from whisper_operator.resources.deployment import Defaults
from whisper_operator.store import Key, Store
from whispermodel.resource import Mode
from whispermodel.status import Condition, Status

KEY = Key("speech", "base")
PATH = WHISPER_MODELS.path(KEY.namespace, KEY.name)
UNLOADED = b'{"state": "Unloaded", "idle_seconds": 0, "in_flight": 0, "queued": 0}'
UNLOAD = b'{"device_was": "cpu", "memory_freed": {"ram_mb": 360, "vram_mb": 0}, "fully_released": true}'
LOADED = b'{"device": "cpu", "load_seconds": 2.5, "phases": {}}'


class Busy(SimulatedApi):
    """An API server to which somebody else writes a spec just before a status arrives.

    writes: in order, the state of each status, and the path of anything else. forbids: the path that nobody may write.
    """

    coming: dict[str, Any] | None = None
    forbids: str | None = None
    writes: list[str]

    async def call_api(self, *request: Any, _request_timeout: float) -> Answer:
        if request[0] != "GET":
            self.writes.append(request[2].get("status", {}).get("state") or request[1])
        if request[0] != "GET" and request[1] == self.forbids:
            return Answer(403, b'{"code": 403, "message": "exceeded quota: none"}')
        if request[1].endswith("/status") and self.coming is not None:
            spec, self.coming = self.coming, None
            self.put(PATH, {**self.objects[PATH], "spec": spec})
        return await super().call_api(*request, _request_timeout=_request_timeout)


class Worked:
    """A pod's server: loaded, without work for half a minute, and with memory that never stands still."""

    def __init__(self, around: Around) -> None:
        self.around, self.since, self.state = around, around.now, "Loaded"
        self.wavering = itertools.cycle([-12, 0, 12])

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        waver = next(self.wavering)
        if url.endswith("/metrics"):
            held = 400 + waver if self.state == "Loaded" else 40
            return Reply(200, f'whisper_memory_bytes{{process="worker",kind="proportional"}} {held}000000\n'.encode())
        if url.endswith("/model/unload"):
            self.state = "Unloaded"
            return Reply(200, UNLOAD)
        # An answer takes its time, now more and now less.
        idle = (self.around.now - self.since).total_seconds() + 30 + waver / 1000
        report = {"state": self.state, "device": "cpu", "idle_seconds": idle, "work_began_seconds": idle + 60}
        return Reply(200, json.dumps({**report, "in_flight": 0, "queued": 0}).encode())


class Server:
    """A pod's: unloaded, and it loads what it is asked to."""

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        if url.endswith("/model/status"):
            return Reply(200, UNLOADED)
        return Reply(200, LOADED if url.endswith("/model/load") else b"")


class Loading:
    """A pod's: unloaded, and it loads for as long as the test wishes."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        if url.endswith("/model/load"):
            await self.may_end.wait()
            return Reply(200, LOADED)
        state = {"state": "Loaded" if self.may_end.is_set() else "Unloaded", "idle_seconds": 0.0}
        return Reply(200, json.dumps({**json.loads(UNLOADED), **state}).encode())


class Told:
    """A pod's: loaded, as it tells, by a request half a minute before it is first asked."""

    def __init__(self, around: Around) -> None:
        self.around, self.since = around, around.now - timedelta(seconds=30)

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        ago = (self.around.now - self.since).total_seconds()
        last_load = {"load_seconds": 2.5, "phases": {}, "trigger": "demand", "seconds_ago": ago}
        report = {**json.loads(UNLOADED), "state": "Loaded", "idle_seconds": ago, "last_load": last_load}
        return Reply(200, json.dumps(report).encode() if url.endswith("/model/status") else b"")


class Around:
    """One model and all that reconciling it needs."""

    def __init__(self, *, allow_from: Sequence[Any] | None = None, **spec: Any) -> None:
        self.now = NOON
        self.server: Http = Server()
        self.api = Busy(lambda path, now, last: None)
        self.api.writes = []
        self.store = Store.empty()
        self.seen: list[Key] = []
        self.restart(allow_from=allow_from)
        self.ask(**spec)

    def restart(self, *, allow_from: Sequence[Any] | None) -> None:
        """Begin anew with what the watches have shown."""
        self.board = board = Board()
        cluster = Cluster(cast("client.ApiClient", self.api), counter=Metrics(board=board, queue_depth=lambda: 0.0))
        self.reconciler = Reconciler(
            Surroundings(
                store=self.store,
                cluster=cluster,
                pods=Pods(self),
                errands=Errands(on_outcome=self.seen.append),
                keys=Keys(cluster),
                recorder=Recorder(cluster, instance="test"),
                board=board,
                defaults=Defaults("whisper-inference:0.1.0"),
                allow_from=allow_from,
                clock=lambda: self.now,
            )
        )

    async def fetch(self, method: str, url: str, **how: Any) -> Reply:
        """Reach the pod's server."""
        return await self.server.fetch(method, url, **how)

    def ask(self, **spec: Any) -> None:
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        body = {**self.api.objects.get(PATH, {}), "metadata": metadata, "spec": {"model": {"size": "base"}, **spec}}
        self.store.models.put(WhisperModelObject.model_validate(self.api.put(PATH, body)))

    def note(self, **status: Any) -> None:
        """Have the status say what an operator before this one wrote."""
        body = {**self.api.objects[PATH], "status": status}
        self.store.models.put(WhisperModelObject.model_validate(self.api.put(PATH, body)))

    def scale(self, replicas: int, *, by: str) -> None:
        """Have the watch show that somebody else has set the Deployment's replicas."""
        path = DEPLOYMENTS.path(KEY.namespace, KEY.name)
        there = self.api.objects[path]
        claim = {"manager": by, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        metadata = {**there["metadata"], "managedFields": [claim]}
        changed = {**there, "metadata": metadata, "spec": {**there["spec"], "replicas": replicas}}
        self.store.deployments.put(Deployment.model_validate(self.api.put(path, changed)))

    def start_pod(self) -> None:
        ready = [{"type": "Ready", "status": "True"}]
        self.show_pod("base-1", phase="Running", podIP="10.0.0.7", conditions=ready)

    def show_pod(self, name: str, *, leaving: bool = False, **status: Any) -> None:
        """Have the watch show a pod that was made just now; leaving: and is told to end within the hour."""
        metadata = {"name": name, "namespace": KEY.namespace, "uid": f"uid-{name}", "labels": {LABEL: KEY.name}}
        made = {**metadata, "creationTimestamp": self.now.isoformat()}
        made |= {"deletionTimestamp": (self.now + timedelta(hours=1)).isoformat()} if leaving else {}
        self.store.pods.put(Pod.model_validate({"metadata": made, "status": status}))

    def condition(self, kind: str) -> Condition:
        return next(one for one in self.status.conditions if one.type == kind)

    async def reconcile(self) -> datetime | None:
        check_at = await self.reconciler.reconcile(KEY)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return check_at

    @property
    def status(self) -> Status:
        return Status.model_validate(self.api.objects[PATH]["status"])

    async def pass_time(self, length: timedelta) -> None:
        """Reconcile for so long, each time when it is due."""
        end = self.now + length
        while self.now < end:
            check_at = await self.reconcile()
            self.now = min(end, max(check_at or end, self.now + timedelta(milliseconds=50)))


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
