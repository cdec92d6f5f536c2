"""The operator with the real transcription server in its pods, on real speech."""

from __future__ import annotations

import base64
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from testing.audio_files import JFK
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.operator_process import eventually
from testing.server_process import upload
from testing.spoken_words import ASK_NOT, normalized

pytestmark = pytest.mark.usefixtures("operator", "real_servers")


@pytest.fixture
def real_servers(kubelet: Kubelet, model: LiveModel, tmp_path: Path) -> None:
    """Run the real server in pods."""
    kubelet.real_servers_in = tmp_path


@pytest.fixture
def tiny(weights: dict[str, Path]) -> dict[str, object]:
    """spec.model for tiny.en, from its packaged weights."""
    return {"size": "tiny.en", "device": "cpu", "source": {"path": str(weights["openai-whisper"])}}


def client_of(model: LiveModel) -> httpx.Client:
    """A client of the only pod's server, with the operator's key."""
    path = f"/api/v1/namespaces/{model.namespace}/secrets/whisper-operator-keys"
    key = base64.b64decode(model.api.client().get(path).json()["data"]["operator"]).decode()
    [server] = model.real_servers()
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=120)


def test_load_transcribe_unload_and_to_zero_with_measured_receipts(model: LiveModel, tiny: dict[str, object]) -> None:
    model.apply(model=tiny, desiredState="Loaded")
    status = model.wait_for(state="Loaded")
    assert status["device"] == "cpu"
    assert set(status["lastLoad"]["phases"]) >= {"import", "weights"}
    held = eventually(lambda: model.status.get("memory"), "memory")["residentBytes"]
    assert held > 200 * 2**20
    with client_of(model) as client:
        answer = client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "whisper-1"})
    assert ASK_NOT in normalized(answer.json()["text"])
    model.apply(model=tiny, desiredState="Zero", idle={"unloadAfter": "0s"})
    status = model.wait_for(state="Zero")
    receipt = status["lastUnload"]
    assert receipt["fullyReleased"] is True
    assert receipt["freedResidentBytes"] > 100 * 2**20
    assert model.pods() == []


def test_accepted_jobs_finish_before_another_size_takes_over(model: LiveModel, tiny: dict[str, object]) -> None:
    model.apply(model=tiny, desiredState="Loaded")
    model.wait_for(state="Loaded")
    [old] = model.real_servers()
    with client_of(model) as client, ExitStack() as streams:
        jobs = [client.post("/jobs", files={"file": upload(JFK)}).json()["id"] for _ in range(3)]
        # A later request would find the pod gone, so follow the job to its end.
        followed = [streams.enter_context(client.stream("GET", f"/jobs/{job}/events")) for job in jobs]
        model.apply(model=tiny | {"computeType": "float32"}, desiredState="Loaded")
        ends = [list(events.iter_lines())[-3:] for events in followed]
    assert ends == [["event: done", 'data: {"status": "succeeded"}', ""]] * 3
    eventually(lambda: old not in model.real_servers(), "the old pod is gone")
    model.wait_for(state="Loaded")


def test_model_that_demand_loads_is_reported_loaded_within_a_second(model: LiveModel, tiny: dict[str, object]) -> None:
    model.apply(model=tiny, desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    model.demand(seconds=600)
    model.wait_for(state="Loaded", reason="Demand")
    with client_of(model) as client:
        assert client.get("/model/status").json()["last_load"]["seconds_ago"] < 1.0
