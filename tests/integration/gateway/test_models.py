"""Several models behind one gateway: how requests name them, and that one does not hold up the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from testing.api_server import ApiServer
from testing.audio_files import JFK
from testing.gateway_client import job, submit, transcribe
from testing.gateway_process import GatewayProcess
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.operator_process import eventually
from testing.server_process import upload

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def other(at_zero: LiveModel, api_server: ApiServer) -> Iterator[LiveModel]:
    """A second model at zero, with an alias."""
    other = replace(at_zero, name="other")
    other.apply(aliases=["dictation"], idle={"unloadAfter": "1s", "scaleToZeroAfter": "2s"}, model={"size": "small"})
    other.wait_for(state="Zero")
    yield other
    api_server.client().delete(other.path)


@pytest.mark.parametrize(
    ("path", "headers", "fields"),
    [
        pytest.param("", {}, {"model": "other"}, id="form field"),
        pytest.param("", {}, {"model": "dictation"}, id="alias"),
        pytest.param("", {}, {"model": "Systran/faster-whisper-small"}, id="published name of its size"),
        pytest.param("", {"X-Whisper-Model": "other"}, {}, id="header"),
        pytest.param("/models/other", {}, {"model": "whisper-1"}, id="path"),
    ],
)
def test_request_reaches_the_model_that_it_names(
    gateway: GatewayProcess,
    at_zero: LiveModel,
    other: LiveModel,
    path: str,
    headers: dict[str, str],
    fields: dict[str, str],
) -> None:
    with gateway.client(**headers) as client:
        answer = client.post(f"{path}/jobs", files={"file": upload(JFK)}, data=fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["model"] == "other"
    eventually(lambda: job(gateway, answer.json()["id"])["status"] == "succeeded", "the job is done")
    assert at_zero.pods() == []


def test_request_that_names_no_model_or_an_unknown_one_wakes_none(
    gateway: GatewayProcess, at_zero: LiveModel, other: LiveModel
) -> None:
    with gateway.client() as client:
        unnamed = client.post("/jobs", files={"file": upload(JFK)})
        unknown = client.post("/jobs", files={"file": upload(JFK)}, data={"model": "gpt-4o"})
        contradictory = client.post("/models/base/jobs", files={"file": upload(JFK)}, data={"model": "other"})
    assert (unnamed.status_code, unnamed.json()["code"]) == (400, "model-not-named")
    assert "base, other" in unnamed.json()["detail"]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "model-not-found")
    assert contradictory.status_code == 400
    assert other.pods() == []


def test_broken_model_does_not_slow_another(
    gateway: GatewayProcess, at_zero: LiveModel, other: LiveModel, kubelet: Kubelet
) -> None:
    kubelet.fate = "image-missing"
    with gateway.client() as client:
        broken = client.post("/jobs", files={"file": upload(JFK)}, data={"model": "other"}).json()["id"]
    eventually(lambda: job(gateway, broken)["waiting_for"], "the cause is known")
    kubelet.fate = "run"
    assert transcribe(gateway).status_code == 200
    assert job(gateway, broken)["status"] == "queued"


def test_models_are_listed_with_their_states(gateway: GatewayProcess, at_zero: LiveModel, other: LiveModel) -> None:
    with gateway.client() as client:
        listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
        assert client.get("/v1/models/dictation").json()["id"] == "other"
    assert set(listed) == {"base", "other"}
    assert listed["other"]["state"] == "Zero"
    assert "dictation" in listed["other"]["aliases"]
    assert "openai/whisper-small" in listed["other"]["aliases"]


def test_deleted_model_is_unknown_and_its_job_stays(
    gateway: GatewayProcess, at_zero: LiveModel, other: LiveModel
) -> None:
    accepted = submit(gateway)
    eventually(lambda: job(gateway, accepted["id"])["status"] == "succeeded", "the job is done")
    at_zero.api.client().delete(at_zero.path)

    def is_unknown() -> bool:
        with gateway.client() as client:
            return client.get("/v1/models/base").status_code == 404

    eventually(is_unknown, "the model is unknown")
    assert job(gateway, accepted["id"])["status"] == "succeeded"
