"""Manual loads and unloads through the gateway, and what is remembered across its restarts."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from testing.local_gateway import LocalGateway
from testing.server_process import wait_until


def test_manual_load_and_unload_are_answered_with_receipts_and_survive_a_kill(
    prepared: LocalGateway, start_gateway: Callable[..., LocalGateway]
) -> None:
    prepared.declare("one", idle={"unloadAfter": "1s", "scaleToZeroAfter": "1s"})
    gateway = start_gateway()
    with gateway.client() as client:
        loaded = client.post("/models/one/model/load")
    assert loaded.status_code == 200, loaded.text
    assert loaded.json()["load_seconds"] > 0
    assert gateway.status("one")["reason"] == "Manual"
    gateway.stop(signal.SIGKILL)
    gateway.start()
    assert gateway.wait_for("one", state="Loaded")["reason"] == "Manual"
    with gateway.client() as client:
        unloaded = client.post("/models/one/model/unload")
    assert unloaded.status_code == 200, unloaded.text
    assert unloaded.json()["memory_freed"]["ram_mb"] > 0


def test_model_whose_weights_are_missing_reports_the_cause_and_the_other_is_not_slowed(
    prepared: LocalGateway, start_gateway: Callable[..., LocalGateway], jfk: Path
) -> None:
    prepared.declare("one")
    source = {"path": str(prepared.folder / "nowhere")}
    model = {"size": "tiny.en", "engine": "faster-whisper", "source": source}
    prepared.declare("broken", model=model)
    gateway = start_gateway()
    answer = gateway.transcribe(jfk, model="broken")
    assert answer.status_code == 503, answer.text
    assert "nowhere" in answer.text
    assert gateway.transcribe(jfk, model="one").status_code == 200
    ready = {one["type"]: one for one in gateway.status("broken")["conditions"]}["Ready"]
    assert ready["status"] == "False"


def test_server_that_cannot_start_is_reported_and_tried_again(
    prepared: LocalGateway, start_gateway: Callable[..., LocalGateway], jfk: Path
) -> None:
    prepared.declare("one", idle={"unloadAfter": "1s", "scaleToZeroAfter": "1s"})
    gateway = start_gateway()
    in_the_way = prepared.data / "servers" / "one" / "data"
    in_the_way.write_text("not a folder")
    answer = gateway.transcribe(jfk, model="one")
    assert answer.status_code == 503, answer.text
    assert "exited with status" in answer.text
    in_the_way.unlink()
    wait_until(lambda: gateway.transcribe(jfk, model="one").status_code == 200, "it is started again")
