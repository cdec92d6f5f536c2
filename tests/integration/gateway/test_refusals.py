"""What the gateway refuses: with the same answers as the server, and without waking a pod for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from testing.audio_files import JFK
from testing.gateway_client import transcribe
from testing.gateway_process import GatewayProcess
from testing.live_model import LiveModel
from testing.operator_process import eventually
from testing.server_process import upload

pytestmark = pytest.mark.usefixtures("operator")


@pytest.mark.parametrize(
    ("status", "code", "fields"),
    [
        pytest.param(404, "model-not-found", {"model": "gpt-4o"}, id="unknown model"),
        pytest.param(400, "malformed-request", {"language": "klingon"}, id="unknown language"),
        pytest.param(400, "malformed-request", {"language": "de"}, id="a language that the model does not know"),
        pytest.param(400, "malformed-request", {"temperature": "hot"}, id="not a number"),
        pytest.param(400, "malformed-request", {"colour": "blue"}, id="unknown field"),
        pytest.param(400, "malformed-request", {"response_format": "docx"}, id="unknown format"),
    ],
)
def test_request_that_needs_no_model_to_be_refused_wakes_none(
    gateway: GatewayProcess, at_zero: LiveModel, status: int, code: str, fields: dict[str, str]
) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "base", **fields})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    leases = at_zero.api.client().get(f"/apis/coordination.k8s.io/v1/namespaces/{at_zero.namespace}/leases").json()
    assert [one["metadata"]["name"] for one in leases["items"] if one["metadata"]["name"].startswith("base-")] == []


def test_client_with_garbage_is_told_before_the_pod_is_up(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", b"garbage")}, data={"model": "base"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "not-audio")
    eventually(lambda: not at_zero.pods(), "no pod is left")


def test_demand_policy_refuses_with_the_time_from_which_work_is_accepted(
    gateway: GatewayProcess, model: LiveModel
) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)
    entries = [
        {"name": "off", "cron": "0 0 1 1 *", "state": "Zero"},
        {"name": "on", "cron": f"{at.minute} {at.hour} {at.day} {at.month} *", "state": "Loaded"},
    ]
    model.apply(demandPolicy="Refuse", schedule={"entries": entries})
    model.wait_for_condition("Ready", "False")
    answer = transcribe(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "refused-until"), answer.text
    assert 3600 < int(answer.headers["Retry-After"]) <= 7200
    assert model.pods() == []


def test_suspended_model_at_zero_refuses_clients_that_wait(gateway: GatewayProcess, model: LiveModel) -> None:
    model.apply(suspend=True)
    model.wait_for_condition("Ready", "False")
    answer = transcribe(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model-unavailable")
    assert "suspended" in answer.text


def test_without_a_key_nothing_is_answered(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    with gateway.client("nobody") as client:
        answers = [client.get("/jobs"), client.get("/v1/models"), client.get("/models/base/model/status")]
        answers += [client.post("/jobs", files={"file": upload(JFK)}, data={"model": "base"})]
        answers += [client.post("/models/unknown/model/load")]
    assert [answer.status_code for answer in answers] == [401] * 5
