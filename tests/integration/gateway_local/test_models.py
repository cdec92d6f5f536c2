"""One machine with several models: each in a server of its own, woken, unloaded and ended by the gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from testing.local_gateway import LocalGateway
from testing.server_process import wait_until
from testing.spoken_words import ASK_NOT, normalized

IDLE = {"unloadAfter": "1s", "scaleToZeroAfter": "3s"}


@pytest.fixture
def gateway(prepared: LocalGateway, start_gateway: Callable[..., LocalGateway]) -> LocalGateway:
    """A gateway to two models at zero, one of each engine."""
    prepared.declare("one", idle=IDLE)
    prepared.declare("two", "openai-whisper", idle=IDLE)
    return start_gateway()


def test_request_at_zero_wakes_its_model_alone_and_idle_time_ends_it(gateway: LocalGateway, jfk: Path) -> None:
    assert gateway.status("one")["state"] == "Zero"
    assert gateway.servers() == {}
    answer = gateway.transcribe(jfk, model="one")
    assert answer.status_code == 200, answer.text
    assert ASK_NOT in normalized(answer.json()["text"])
    loaded = gateway.wait_for("one", state="Loaded")
    assert loaded["memory"]["residentBytes"] > 100 * 2**20
    assert gateway.status("two")["state"] == "Zero"
    assert set(gateway.servers()) == {"one"}
    gateway.wait_for("one", state="Unloaded")
    ended = gateway.wait_for("one", state="Zero")
    assert ended["lastUnload"]["freedResidentBytes"] > 0
    assert ended["lastLoad"]["seconds"] > 0
    assert gateway.servers() == {}


def test_killed_gateway_leaves_no_process_and_loses_no_job(gateway: LocalGateway, long_clip: Path, jfk: Path) -> None:
    jobs = [gateway.submit(long_clip, model="one"), gateway.submit(jfk, model="two")]
    wait_until(lambda: gateway.job(jobs[0])["status"] == "running", "the job runs")
    gateway.stop(signal.SIGKILL)
    assert gateway.servers() == {}
    gateway.start()
    for job in jobs:
        assert gateway.wait_for_job(job)["status"] == "succeeded"


def test_crashed_server_is_replaced_and_its_job_is_answered(gateway: LocalGateway, long_clip: Path) -> None:
    job = gateway.submit(long_clip, model="one")
    wait_until(lambda: gateway.job(job)["status"] == "running", "the job runs")
    for pid in gateway.servers()["one"]:
        with suppress(ProcessLookupError):  # It ended with another one of them.
            os.kill(pid, signal.SIGKILL)
    done = gateway.wait_for_job(job)
    assert done["status"] == "succeeded"
    assert done["attempts"] == 2


def test_folder_that_does_not_exist_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whisper_inference", "gateway", "--model-file", str(tmp_path / "nowhere")]
    environment = {**os.environ, "WHISPER_DATA_DIR": str(tmp_path / "data"), "WHISPER_PORT": "0"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "not a folder that can be read" in done.stderr
    assert "Traceback" not in done.stderr
