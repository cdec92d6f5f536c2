"""Files that come, change and go while the gateway runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testing.local_gateway import LocalGateway
from testing.server_process import wait_until


@pytest.fixture
def gateway(prepared: LocalGateway, start_gateway: Callable[..., LocalGateway]) -> LocalGateway:
    """A gateway to one model."""
    prepared.declare("one")
    return start_gateway()


def names(gateway: LocalGateway) -> list[str]:
    with gateway.client() as client:
        return [one["id"] for one in client.get("/v1/models").json()["data"]]


def test_added_model_is_served_and_a_removed_one_is_gone_with_its_server(gateway: LocalGateway, jfk: Path) -> None:
    added = gateway.declare("two")
    wait_until(lambda: names(gateway) == ["one", "two"], "the new model is listed")
    assert gateway.transcribe(jfk, model="two").status_code == 200
    assert "two" in gateway.servers()
    added.unlink()
    wait_until(lambda: names(gateway) == ["one"], "the model is gone")
    wait_until(lambda: "two" not in gateway.servers(), "its server has ended")
    assert gateway.transcribe(jfk, model="two").status_code == 404


def test_invalid_version_leaves_the_last_one_in_effect_and_the_status_says_so(gateway: LocalGateway, jfk: Path) -> None:
    gateway.write("one", {"kind": "WhisperModel"})

    def is_degraded() -> bool:
        conditions = {one["type"]: one for one in gateway.status("one")["conditions"]}
        return conditions["Degraded"]["status"] == "True" and "one.json" in conditions["Degraded"]["message"]

    wait_until(is_degraded, "the status names the file")
    assert gateway.transcribe(jfk, model="one").status_code == 200


def test_changed_engine_replaces_the_server(gateway: LocalGateway, jfk: Path) -> None:
    assert gateway.transcribe(jfk, model="one").status_code == 200
    before = set(gateway.servers()["one"])
    gateway.declare("one", "openai-whisper")
    wait_until(lambda: gateway.status("one")["observedGeneration"] == 2, "the new version is in effect")
    answer = gateway.transcribe(jfk, model="one")
    assert answer.status_code == 200
    assert not before & set(gateway.servers()["one"])
    with gateway.client() as client:
        assert client.get("/models/one/model/status").json()["model_name"] == "tiny.en"


def test_schedule_loads_a_model_without_any_request(gateway: LocalGateway) -> None:
    gateway.declare("two", desiredState="Loaded")
    wait_until(lambda: "two" in names(gateway), "the new model is listed")
    assert gateway.wait_for("two", state="Loaded")["reason"] == "DesiredState"
