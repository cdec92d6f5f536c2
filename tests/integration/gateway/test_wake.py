"""A request that meets a model at zero is stored, wakes it, and is answered."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from testing.audio_files import JFK
from testing.gateway_client import Json, hold_jobs, job, submit, succeeded, transcribe, wakes
from testing.gateway_process import GatewayProcess
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.operator_process import eventually
from testing.pod_stand_in import PodServer
from testing.server_process import upload
from whisper_inference.execution import Lost

pytestmark = pytest.mark.usefixtures("operator")


def is_live(gateway: GatewayProcess) -> bool:
    try:
        return httpx.get(f"{gateway.url}/health/live", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def renewals(model: LiveModel) -> list[Json]:
    """Return the gateway's writes of the model's demand Leases."""
    return [
        event
        for event in model.api.writes()
        if event["objectRef"]["resource"] == "leases"
        and event["objectRef"].get("namespace") == model.namespace
        and event["user"]["username"] == "gateway"
    ]


def test_request_at_zero_wakes_the_model_and_is_answered(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    answer = transcribe(gateway)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Cold-Start"] == "true"
    at_zero.wait_for(state="Zero")
    reasons = [event["reason"] for event in at_zero.events()]
    assert reasons.count("Waking") == 1
    assert reasons.count("Loaded") == 1


def test_herd_at_zero_starts_one_pod(gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: transcribe(gateway), range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert len(kubelet.seen) == 1


def test_background_job_wakes_the_model(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    accepted = submit(gateway)
    assert eventually(lambda: succeeded(gateway, accepted["id"]), "the job is done")


def test_reads_wake_nothing(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    with gateway.client("boss") as client:
        assert client.get("/model/status").json()["state"] == "Zero"
        assert client.get("/v1/models").json()["data"][0]["state"] == "Zero"
        assert client.get("/jobs").json()["jobs"] == []
        assert client.get("/health/ready").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get("/model/resource").json()["status"]["state"] == "Zero"
    assert at_zero.status["state"] == "Zero"
    assert [event["reason"] for event in at_zero.events() if event["reason"] == "Waking"] == []


def test_cause_reaches_the_waiting_client_and_the_job(
    gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet
) -> None:
    kubelet.fate = "image-missing"
    accepted = submit(gateway)
    answer = transcribe(gateway)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert "image" in answer.text.lower()
    waits = eventually(lambda: job(gateway, accepted["id"])["waiting_for"], "the job says what it waits for")
    assert waits["code"] == "model-unavailable"
    assert job(gateway, accepted["id"])["status"] == "queued"
    kubelet.fate = "run"
    for pod in at_zero.pods():
        at_zero.api.client().delete(f"/api/v1/namespaces/{at_zero.namespace}/pods/{pod['metadata']['name']}")
    eventually(lambda: job(gateway, accepted["id"])["status"] == "succeeded", "the job is done")


def test_killed_gateway_loses_no_job(gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet) -> None:
    kubelet.prepare = hold_jobs
    jobs = [submit(gateway)["id"] for _ in range(3)]
    eventually(lambda: job(gateway, jobs[0])["text"], "a section is stored")
    gateway.stop(signal.SIGKILL)
    for server in at_zero.servers():
        server.execute.held = False
    gateway.start()
    for one in jobs:
        done = eventually(lambda one=one: succeeded(gateway, one), f"{one} is done")
        # The job is not to blame for the gateway's end.
        assert done["attempts"] == 1


def test_manual_load_and_unload_are_answered_with_their_receipts(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    with gateway.client("boss") as client:
        loaded = client.post("/model/load", headers={"X-Whisper-Model": "base"})
        assert loaded.status_code == 200, loaded.text
        assert loaded.json()["success"]
        at_zero.wait_for(state="Loaded", reason="Manual")
        unloaded = client.post("/models/base/model/unload")
        assert unloaded.status_code == 200, unloaded.text
        assert unloaded.json()["memory_freed"]["ram_mb"] > 0
    with gateway.client("ana") as client:
        assert client.post("/model/load").status_code == 403


def test_client_that_leaves_before_the_pod_is_up_takes_the_demand_back(
    gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet
) -> None:
    kubelet.fate = "unstarted"  # The pod never starts.
    accepted = submit(gateway)
    eventually(at_zero.pods, "a pod is wanted")
    with gateway.client() as client:
        client.delete(f"/jobs/{accepted['id']}").raise_for_status()
    at_zero.wait_for(state="Zero")
    eventually(lambda: not at_zero.pods(), "the pod is gone")
    eventually(lambda: wakes(gateway, "abandoned") == 1, "the wake was counted")


def test_job_resumes_on_the_next_attempt_when_its_worker_crashes(
    gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet
) -> None:
    def ends_each_attempt_after_a_section(server: PodServer) -> None:
        server.execute.ends_after, server.execute.ends_by = 1, Lost("crash", "killed by signal SIGKILL")

    kubelet.prepare = ends_each_attempt_after_a_section
    accepted = submit(gateway)
    done = eventually(lambda: succeeded(gateway, accepted["id"]), "the job is done")
    assert done["attempts"] == 3
    # Each section is there once.
    assert done["text"] == " ".join(f"{accepted['id']}{number}" for number in range(3))


@pytest.fixture
def ignorant(gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet) -> Iterator[GatewayProcess]:
    """A gateway with a queued job that was killed and started again while the API server is away."""
    kubelet.fate = "unstarted"  # The pod never starts.
    submit(gateway)
    eventually(at_zero.pods, "a pod is wanted")
    gateway.stop(signal.SIGKILL)
    at_zero.api.stop(signal.SIGKILL)
    try:
        gateway.start(wait=False)
        eventually(lambda: is_live(gateway), "the gateway is live")
        yield gateway
    finally:
        if at_zero.api.server.process is None:
            at_zero.api.start()


def test_gateway_that_does_not_know_the_models_yet_says_so(ignorant: GatewayProcess) -> None:
    answer = transcribe(ignorant)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cluster-unreachable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert not ignorant.is_ready()


def test_stored_job_wakes_its_model_as_soon_as_that_is_known(ignorant: GatewayProcess, at_zero: LiveModel) -> None:
    began = len(renewals(at_zero))
    at_zero.api.start()
    eventually(ignorant.is_ready, "the gateway knows the models")
    # Before the first renewal, which would make up for demand that could not be declared.
    eventually(lambda: len(renewals(at_zero)) > began, "demand is declared", seconds=2)


def test_job_that_waits_longer_than_its_client_lets_it_fails_with_the_cause(
    gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet
) -> None:
    kubelet.fate = "unstarted"
    with gateway.client() as client:
        wrong = client.post("/jobs", files={"file": upload(JFK)}, data={"start_within": "soon"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "malformed-request")
        sent = client.post("/jobs", files={"file": upload(JFK)}, data={"start_within": "2s"})
        assert sent.status_code == 202, sent.text
        path = sent.headers["Location"]
        eventually(lambda: client.get(path).json()["status"] == "failed", "the job has failed")
        failed = client.get(path).json()
    assert failed["error"]["code"] == "not-started-in-time"
    assert "2s" in failed["error"]["detail"]
    at_zero.wait_for(state="Zero")
