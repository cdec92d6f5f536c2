"""A scenario for Prometheus to scrape: a real operator, pods with real servers, real speech, and some failures."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil

from testing.api_server import ApiServer, running_api_server, running_controllers
from testing.chart.helm import GATEWAY, RELEASE, Rendered
from testing.kubelet_stand_in import Kubelet, running_kubelet
from testing.live_model import LiveModel
from testing.monitoring.gateway_page import GatewayPage, running_gateway_page
from testing.monitoring.monitors import discovered_pod, discovered_service, jobs_of, rendered_monitors
from testing.monitoring.prometheus_process import Prometheus, running_prometheus
from testing.operator_process import RBAC, OperatorProcess, eventually, grant_rights, running_operator
from testing.real_pod import RealPod
from testing.server_process import upload
from whispermodel.key import Key
from whispermodel.planning.modes import Reason

NAMESPACE = "speech"
MODEL = "dictation"
LOAD_SECONDS = 60

Json = dict[str, Any]


@dataclass(frozen=True)
class Observations:
    """A Prometheus that has scraped the scenario, and the scenario's start and end in Unix seconds."""

    prometheus: Prometheus
    start: float
    end: float


@dataclass
class Scenario:
    """The processes and files of the scenario."""

    prometheus: Prometheus
    api: ApiServer
    kubelet: Kubelet
    operator: OperatorProcess
    gateway: GatewayPage
    chart: Rendered
    """The chart's objects."""
    weights: Path
    """A checkpoint."""
    clip: Path
    """A few words of speech."""
    long_clip: Path
    """Two minutes of speech."""

    def model(self, name: str) -> LiveModel:
        return LiveModel(self.api, self.kubelet, NAMESPACE, name)

    def spec_model(self, path: str) -> Json:
        """Return a spec.model with the weights at a path."""
        return {"size": "tiny.en", "engine": "faster-whisper", "device": "cpu", "source": {"path": path}}

    def apply(self, model: LiveModel, **spec: Any) -> None:
        """Apply a working model. The pod template is always the same, so that pods are not replaced."""
        model.apply(model=self.spec_model(str(self.weights)), queue={"maxAudioBytes": "4Mi"}, **spec)

    def discover_operator(self) -> None:
        """Let Prometheus discover the ports of the operator's Service."""
        ports = {"metrics": self.operator.metrics_port, "health": self.operator.health_port}
        self._discover("operator", self.chart.the("Service", RELEASE), ports)

    def discover_gateway(self) -> None:
        """Let Prometheus discover the port of the gateway's Service."""
        self._discover("gateway", self.chart.the("Service", GATEWAY), {"http": self.gateway.port})

    def _discover(self, job: str, service: Json, ports: dict[str, int]) -> None:
        found = [
            {"address": f"127.0.0.1:{ports[port['name']]}", "labels": discovered_service(service, port)}
            for port in service["spec"]["ports"]
        ]
        self.prometheus.scrape(job, found)

    def discover_pods(self) -> None:
        """Let Prometheus discover the running pods."""
        pods = self.api.client().get(f"/api/v1/namespaces/{NAMESPACE}/pods").json()["items"]
        running = [(pod, self.kubelet.pods.get(pod["metadata"]["name"])) for pod in pods]
        found = [
            {"address": server.url.removeprefix("http://"), "labels": discovered_pod(pod)}
            for pod, server in running
            if isinstance(server, RealPod)
        ]
        self.prometheus.scrape("models", found)

    @contextmanager
    def client(self, model: LiveModel) -> Iterator[httpx.Client]:
        """Yield a client of a model's only pod, with the client key."""
        secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/whisper-operator-keys"
        key = base64.b64decode(self.api.client().get(secret).json()["data"]["client"]).decode()
        [server] = model.real_servers()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=LOAD_SECONDS, trust_env=False) as client:
            yield client

    def wait_for_series(self, query: str) -> None:
        """Wait until Prometheus has scraped the series of a query, because pods may come and go between scrapes."""
        eventually(lambda: self.prometheus.value(query) > 0, f"Prometheus has seen {query}")

    def wait_for_reason(self, reason: Reason) -> None:
        self.wait_for_series(f'whispermodel_reason{{whispermodel="{MODEL}",reason="{reason}"}}')

    def transcribe(self, model: LiveModel) -> None:
        with self.client(model) as client:
            answer = client.post("/v1/audio/transcriptions", files={"file": upload(self.clip)})
        assert "fellow Americans" in answer.raise_for_status().json()["text"]


@contextmanager
def observed(folder: Path, *, clusters: Path, programs: Path, **files: Path) -> Iterator[Observations]:
    """Run the scenario. clusters, programs: folders of the API server and Prometheus. files: those of a Scenario."""
    with ExitStack() as stack:
        chart = rendered_monitors(_made(folder / "helm"))
        prometheus = stack.enter_context(
            running_prometheus(_made(folder / "prometheus"), programs, jobs=jobs_of(chart))
        )
        api = stack.enter_context(running_api_server(_made(folder / "api-server"), clusters))
        stack.enter_context(running_controllers(api))
        kubelet = stack.enter_context(running_kubelet(api))
        kubelet.real_servers_in = _made(folder / "pods")
        api.make_namespace(NAMESPACE)
        grant_rights(api)
        operator = stack.enter_context(running_operator(api, folder, namespace=NAMESPACE))
        gateway = stack.enter_context(running_gateway_page(Key(NAMESPACE, MODEL)))
        scenario = Scenario(prometheus, api, kubelet, operator, gateway, chart, **files)
        start = time.time()
        run(scenario)
        yield Observations(prometheus, start, time.time())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def run(scenario: Scenario) -> None:
    """Run a working model through loads and unloads, beside broken models."""
    scenario.discover_operator()
    scenario.discover_gateway()
    _add_broken_models(scenario)
    dictation = scenario.model(MODEL)
    _wake_through_the_gateway(scenario)
    _work_and_crash(scenario, dictation)
    _unload_and_wake(scenario, dictation)
    _revoke_permissions(scenario)
    _follow_a_schedule(scenario, dictation)
    scenario.wait_for_series(f'rate(whisper_job_duration_seconds_count{{whispermodel="{MODEL}"}}[5s])')


def _add_broken_models(scenario: Scenario) -> None:
    """Apply one model without weights, and one with an unknown time zone and another field manager that scales it."""
    scenario.model("broken").apply(model=scenario.spec_model("/nowhere/model"), desiredState="Loaded")
    misconfigured = scenario.model("misconfigured")
    entries = [{"name": "evening", "cron": "0 20 * * *", "state": "Unloaded"}]
    misconfigured.apply(desiredState="Zero", schedule={"timeZone": "Nowhere/Land", "entries": entries})
    eventually(misconfigured.deployment, "the Deployment")
    head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "misconfigured"}}
    scenario.api.apply(
        f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/misconfigured", {**head, "spec": {"replicas": 0}}
    )
    misconfigured.wait_for_condition("ScalerConflict", "True")


def _wake_through_the_gateway(scenario: Scenario) -> None:
    """Let Prometheus see the gateway's counters before and after they count."""
    scenario.gateway.show_requests()
    scenario.wait_for_series('count(whisper_rejected_total{whispermodel=""}) == 2')
    scenario.gateway.show_work(Key(NAMESPACE, MODEL))
    scenario.gateway.show_requests()
    scenario.wait_for_series('sum(whisper_gateway_wakes_total{result="served"})')


def _work_and_crash(scenario: Scenario, model: LiveModel) -> None:
    """Load, transcribe, reject a job because storage is full, and crash the worker during a job."""
    scenario.apply(model, desiredState="Loaded")
    model.wait_for(state="Loaded", seconds=LOAD_SECONDS)
    scenario.discover_pods()
    scenario.wait_for_series(f'up{{whispermodel="{MODEL}"}}')
    scenario.transcribe(model)
    with scenario.client(model) as client:
        job = client.post("/jobs", files={"file": upload(scenario.long_clip)}).raise_for_status().headers["Location"]
        assert client.post("/jobs", files={"file": upload(scenario.long_clip)}).status_code == 429
        eventually(lambda: client.get(job).json()["status"] == "running", "the job runs")
        _kill_worker(model)
        client.delete(job)
    scenario.transcribe(model)
    scenario.wait_for_series("whisper_worker_restarts_total")


def _kill_worker(model: LiveModel) -> None:
    [server] = model.real_servers()
    assert server.process is not None
    [zygote] = psutil.Process(server.process.pid).children()
    [worker] = zygote.children()
    worker.kill()


def _unload_and_wake(scenario: Scenario, model: LiveModel) -> None:
    """Unload, let a request wait for the load, then scale to zero, where there is no pod to scrape."""
    idle = {"unloadAfter": "0s"}
    scenario.apply(model, desiredState="Unloaded", idle=idle)
    model.wait_for(state="Unloaded")
    scenario.wait_for_series("whisper_model_unloads_total")
    scenario.transcribe(model)
    scenario.wait_for_series("whisper_cold_start_seconds_count")
    model.demand(seconds=3)
    scenario.wait_for_reason(Reason.DEMAND)
    scenario.apply(model, desiredState="Zero", idle=idle)
    model.wait_for(state="Zero")
    scenario.discover_pods()


def _revoke_permissions(scenario: Scenario) -> None:
    """Revoke the operator's permissions until a reconciliation fails."""
    binding = f"{RBAC}/clusterrolebindings/whisper-operator"
    scenario.api.client().delete(binding)
    scenario.model("misconfigured").apply(desiredState="Zero")
    failed = 'whisper_operator_reconcile_seconds_count{result="error"}'
    eventually(lambda: failed in scenario.operator.metrics(), "a reconciliation has failed")
    grant_rights(scenario.api)


def _follow_a_schedule(scenario: Scenario, model: LiveModel) -> None:
    """Load by a scheduled exception, after a while without demand."""
    idle = {"unloadAfter": "0s", "scaleToZeroAfter": "0s"}
    scenario.apply(model, idle=idle)
    scenario.wait_for_reason(Reason.IDLE)
    now = datetime.now(UTC).replace(microsecond=0)
    period = {"from": (now + timedelta(seconds=3)).isoformat(), "to": (now + timedelta(hours=1)).isoformat()}
    schedule = {"exceptions": [{"name": "session", "state": "Loaded", **period}]}
    scenario.apply(model, schedule=schedule, idle=idle)
    model.wait_for(state="Loaded", seconds=LOAD_SECONDS)
    scenario.discover_pods()
    scenario.wait_for_series(f'up{{whispermodel="{MODEL}"}}')
    scenario.transcribe(model)
