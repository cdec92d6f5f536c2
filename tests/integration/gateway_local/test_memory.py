"""A memory budget that holds one of two models."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from testing.local_gateway import LocalGateway
from testing.server_process import wait_until

FOR_ONE = "520Mi"
"""Room for one tiny.en with faster-whisper, by its estimate, and the server of another."""
FOR_ONE_ALONE = "400Mi"
"""Room for one, also by what it is measured to hold."""
TO_ZERO = {"idle": {"unloadAfter": "15m", "scaleToZeroAfter": "15m"}}


@pytest.fixture
def start(prepared: LocalGateway, start_gateway: Callable[..., LocalGateway]) -> Callable[..., LocalGateway]:
    """Start a gateway to two models of which one fits: start(one={...}, two={...})."""

    def started(*, budget: str = FOR_ONE, **specs: dict[str, Any]) -> LocalGateway:
        for name in ("one", "two"):
            prepared.declare(name, **specs.get(name, {}))
        return start_gateway(WHISPER_MEMORY_BUDGET=budget)

    return started


def test_idle_model_makes_room_for_the_one_that_is_needed_and_says_why(
    start: Callable[..., LocalGateway], jfk: Path
) -> None:
    gateway = start()
    assert gateway.transcribe(jfk, model="one").status_code == 200
    assert gateway.transcribe(jfk, model="two").status_code == 200
    unloaded = gateway.wait_for("one", state="Unloaded")
    assert unloaded["message"] == "Unloaded to make room for 'two'; the next request loads it again."
    assert gateway.status("two")["state"] == "Loaded"


def test_model_that_does_not_fit_beside_one_kept_loaded_is_refused_with_both_figures(
    start: Callable[..., LocalGateway], jfk: Path
) -> None:
    gateway = start(one={"desiredState": "Loaded"})
    gateway.wait_for("one", state="Loaded")
    answer = gateway.transcribe(jfk, model="two")
    assert answer.status_code == 507, answer.text
    assert gateway.status("one")["state"] == "Loaded"
    with gateway.client() as client:
        problem = client.post("/jobs", files={"file": jfk.read_bytes()}, data={"model": "two"}).json()
        load = client.post("/models/two/model/load")
    assert load.status_code == 507, load.text
    assert load.json()["needed_bytes"] > load.json()["available_bytes"] > 0
    waiting = wait_until(lambda: gateway.job(problem["id"])["waiting_for"], "the job says what it waits for")
    assert waiting["code"] == "model-does-not-fit"
    gateway.declare("one", desiredState="Zero")
    assert gateway.wait_for_job(problem["id"])["status"] == "succeeded"


def test_interleaved_jobs_of_two_models_are_grouped_by_model(start: Callable[..., LocalGateway], jfk: Path) -> None:
    gateway = start(budget=FOR_ONE_ALONE, one=TO_ZERO, two=TO_ZERO)
    assert gateway.transcribe(jfk, model="one").status_code == 200
    models = ["one", "two"] * 6
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda model: gateway.transcribe(jfk, model=model), models))
    assert [answer.status_code for answer in answers] == [200] * 12
    log = gateway.log.read_text()
    assert "Unloaded to make room for" in log
    loads = log.count('"on": "Loaded"')
    assert 2 <= loads <= 3, "one for each group, and one if the first model's turn was over in the middle"
