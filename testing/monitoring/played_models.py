"""What Prometheus gets to see: a real operator, pods with the real server, real speech, and some of what goes wrong."""

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
from testing.kubelet_stand_in import Kubelet, running_kubelet
from testing.live_model import LiveModel
from testing.monitoring.monitors import discovered_pod, discovered_service, jobs_of, rendered_monitors
from testing.monitoring.prometheus_process import Prometheus, running_prometheus
from testing.operator_process import RBAC, OperatorProcess, eventually, grant_rights, running_operator
from testing.real_pod import RealPod
from testing.server_process import upload
from whispermodel.planning.modes import Reason

NAMESPACE = "speech"
MODEL = "dictation"
LOAD_SECONDS = 60

Json = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A Prometheus after the scene, and the time that it lasted, as Unix seconds."""

    prometheus: Prometheus
    start: float
    end: float


@dataclass
class Stage:
    """All that plays. service: the operator's. weights: a checkpoint; clip: a few words; long_clip: two minutes."""

    prometheus: Prometheus
    api: ApiServer
    kubelet: Kubelet
    operator: OperatorProcess
    service: Json
    weights: Path
    clip: Path
    long_clip: Path

    def model(self, name: str) -> LiveModel:
        return LiveModel(self.api, self.kubelet, NAMESPACE, name)

    def choice(self, path: str) -> Json:
        """Return what spec.model says, for weights at a path."""
        return {"size": "tiny.en", "engine": "faster-whisper", "device": "cpu", "source": {"path": path}}

    def ask_for(self, model: LiveModel, **spec: Any) -> None:
        """Apply a model that works. What its pods are made from stays, so that they stay."""
        model.apply(model=self.choice(str(self.weights)), queue={"maxAudioBytes": "4Mi"}, **spec)

    def find_operator(self) -> None:
        """Have Prometheus find the ports of the operator's Service."""
        ports = {"metrics": self.operator.metrics_port, "health": self.operator.health_port}
        found = [
            {"address": f"127.0.0.1:{ports[port['name']]}", "labels": discovered_service(self.service, port)}
            for port in self.service["spec"]["ports"]
        ]
        self.prometheus.scrape("operator", found)

    def find_pods(self) -> None:
        """Have Prometheus find the pods that run."""
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
        """Give a client of a model's one pod, with the key for clients."""
        secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/whisper-operator-keys"
        key = base64.b64decode(self.api.client().get(secret).json()["data"]["client"]).decode()
        [server] = model.real_servers()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=LOAD_SECONDS, trust_env=False) as client:
            yield client

    def see(self, query: str) -> None:
        """Wait until Prometheus has scraped what a query asks for: pods come and go faster than it looks."""
        eventually(lambda: self.prometheus.value(query) > 0, f"Prometheus has seen {query}")

    def see_reason(self, reason: Reason) -> None:
        self.see(f'whispermodel_reason{{whispermodel="{MODEL}",reason="{reason}"}}')

    def transcribe(self, model: LiveModel) -> None:
        with self.client(model) as client:
            answer = client.post("/v1/audio/transcriptions", files={"file": upload(self.clip)})
        assert "fellow Americans" in answer.raise_for_status().json()["text"]


@contextmanager
def played(folder: Path, *, clusters: Path, programs: Path, **files: Path) -> Iterator[Seen]:
    """Play the scene. clusters, programs: where the API server and Prometheus lie. files: those of a Stage."""
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
        stage = Stage(prometheus, api, kubelet, operator, service=chart.the("Service"), **files)
        start = time.time()
        play(stage)
        yield Seen(prometheus, start, time.time())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def play(stage: Stage) -> None:
    """Play it: a model that works, loads and goes, beside others that ail."""
    stage.find_operator()
    _let_models_ail(stage)
    dictation = stage.model(MODEL)
    _work_and_crash(stage, dictation)
    _unload_and_wake(stage, dictation)
    _lose_rights(stage)
    _follow_a_schedule(stage, dictation)
    stage.see(f'rate(whisper_job_duration_seconds_count{{whispermodel="{MODEL}"}}[5s])')


def _let_models_ail(stage: Stage) -> None:
    """One has no weights; the other has a time zone that does not exist, and something else scales it."""
    stage.model("broken").apply(model=stage.choice("/nowhere/model"), desiredState="Loaded")
    ailing = stage.model("ailing")
    entries = [{"name": "evening", "cron": "0 20 * * *", "state": "Unloaded"}]
    ailing.apply(desiredState="Zero", schedule={"timeZone": "Nowhere/Land", "entries": entries})
    eventually(ailing.deployment, "the Deployment")
    head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "ailing"}}
    stage.api.apply(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/ailing", {**head, "spec": {"replicas": 0}})
    ailing.wait_for_condition("ScalerConflict", "True")


def _work_and_crash(stage: Stage, model: LiveModel) -> None:
    """Load, transcribe, refuse what is too much, and lose the worker in the middle of a job."""
    stage.ask_for(model, desiredState="Loaded")
    model.wait_for(state="Loaded", seconds=LOAD_SECONDS)
    stage.find_pods()
    stage.see(f'up{{whispermodel="{MODEL}"}}')
    stage.transcribe(model)
    with stage.client(model) as client:
        job = client.post("/jobs", files={"file": upload(stage.long_clip)}).raise_for_status().headers["Location"]
        assert client.post("/jobs", files={"file": upload(stage.long_clip)}).status_code == 429
        eventually(lambda: client.get(job).json()["status"] == "running", "the job runs")
        _kill_worker(model)
        client.delete(job)
    stage.transcribe(model)
    stage.see("whisper_worker_restarts_total")


def _kill_worker(model: LiveModel) -> None:
    [server] = model.real_servers()
    assert server.process is not None
    [zygote] = psutil.Process(server.process.pid).children()
    [worker] = zygote.children()
    worker.kill()


def _unload_and_wake(stage: Stage, model: LiveModel) -> None:
    """Unload, and have a request wait for the load; then to zero, where no pod is left to scrape."""
    idle = {"unloadAfter": "0s"}
    stage.ask_for(model, desiredState="Unloaded", idle=idle)
    model.wait_for(state="Unloaded")
    stage.see("whisper_model_unloads_total")
    stage.transcribe(model)
    stage.see("whisper_cold_start_seconds_count")
    model.demand(seconds=3)
    stage.see_reason(Reason.DEMAND)
    stage.ask_for(model, desiredState="Zero", idle=idle)
    model.wait_for(state="Zero")
    stage.find_pods()


def _lose_rights(stage: Stage) -> None:
    """Have reconciliations fail for a moment."""
    binding = f"{RBAC}/clusterrolebindings/whisper-operator"
    stage.api.client().delete(binding)
    stage.model("ailing").apply(desiredState="Zero")
    failed = 'whisper_operator_reconcile_seconds_count{result="error"}'
    eventually(lambda: failed in stage.operator.metrics(), "a reconciliation has failed")
    grant_rights(stage.api)


def _follow_a_schedule(stage: Stage, model: LiveModel) -> None:
    """Load by the schedule, with a next transition to come; until then nothing calls for it."""
    idle = {"unloadAfter": "0s", "scaleToZeroAfter": "0s"}
    stage.ask_for(model, idle=idle)
    stage.see_reason(Reason.IDLE)
    now = datetime.now(UTC).replace(microsecond=0)
    period = {"from": (now + timedelta(seconds=3)).isoformat(), "to": (now + timedelta(hours=1)).isoformat()}
    schedule = {"exceptions": [{"name": "session", "state": "Loaded", **period}]}
    stage.ask_for(model, schedule=schedule, idle=idle)
    model.wait_for(state="Loaded", seconds=LOAD_SECONDS)
    stage.find_pods()
    stage.see(f'up{{whispermodel="{MODEL}"}}')
    stage.transcribe(model)
