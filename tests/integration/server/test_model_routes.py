"""Load, unload and status of the model, called with curl as cron jobs and scripts do."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.depth import depth
from testing.server_process import Json, Launch, ServerProcess, wait_until

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

DEFAULT_URL = "http://localhost:8002"


@pytest.fixture(scope="module")
def server(launch: Launch) -> Iterator[ServerProcess]:
    with launch("openai-whisper", WHISPER_PRELOAD_MODEL="true") as server:
        wait_until(lambda: server.client.get("/health/startup").is_success, "the model is preloaded")
        yield server


@pytest.fixture(scope="module")
def fast_server(launch: Launch) -> Iterator[ServerProcess]:
    with launch("faster-whisper") as server:
        yield server


def shell(script: str, server: ServerProcess, *, cwd: Path | None = None) -> str:
    """Run a script that calls the default address against this server."""
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(DEFAULT_URL, server.url)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return run.stdout


def curl(script: str, server: ServerProcess) -> Json:
    return json.loads(shell(script, server))


def test_model_is_preloaded(server: ServerProcess) -> None:
    assert curl("curl http://localhost:8002/model/status", server)["loaded"] is True


def test_status_of_a_loaded_model(server: ServerProcess) -> None:
    server.load()
    status = curl("curl http://localhost:8002/model/status", server)
    assert status.keys() >= {"loaded", "model_name", "device", "memory"}
    assert (status["model_name"], status["device"]) == ("tiny.en", "cpu")
    assert status["memory"].keys() >= {"vram_mb", "vram_reserved_mb", "cuda_available"}


def test_unload_in_the_evening_and_load_in_the_morning(server: ServerProcess) -> None:
    server.load()
    evening = curl("curl -X POST http://localhost:8002/model/unload", server)
    assert evening["success"] is True
    assert evening["memory_freed"]["ram_mb"] > 50
    assert evening["memory_freed"]["vram_mb"] == 0
    assert (evening["device_was"], evening["model_name"]) == ("cpu", "tiny.en")
    assert evening["message"]
    night = curl("curl http://localhost:8002/model/status", server)
    assert (night["loaded"], night["device"], night["memory"]["vram_mb"]) == (False, None, 0.0)
    assert server.children() == set()
    morning = curl("curl -X POST http://localhost:8002/model/load", server)
    assert morning["success"] is True
    assert morning["memory_used"]["ram_mb"] > 50
    assert (morning["device"], morning["model_name"]) == ("cpu", "tiny.en")
    assert curl("curl http://localhost:8002/model/status", server)["loaded"] is True


def test_job_after_an_unload_loads_the_model(server: ServerProcess, clip: Path) -> None:
    curl("curl -X POST http://localhost:8002/model/unload", server)
    job = curl(f'curl -X POST http://localhost:8002/jobs -F "file=@{clip}"', server)
    assert server.wait_for_job(job["id"])["status"] == "succeeded"
    assert server.status()["loaded"] is True


@pytest.mark.timeout(900)
def test_batch_of_jobs_between_load_and_unload(fast_server: ServerProcess, clip: Path, tmp_path: Path) -> None:
    count = depth(ci=10, nightly=100)
    for number in range(1, count + 1):
        (tmp_path / f"audio_{number}.wav").symlink_to(clip)
    submitted = shell(
        """
        curl -s -X POST http://localhost:8002/model/load >/dev/null
        for i in {1..100}; do
          curl -s -X POST http://localhost:8002/jobs \
            -F "file=@audio_${i}.wav" \
            -F "language_in=auto"
          echo
        done
        """.replace("1..100", f"1..{count}"),
        fast_server,
        cwd=tmp_path,
    )
    ids = [json.loads(line)["id"] for line in submitted.splitlines() if line]
    assert len(set(ids)) == count
    wait_until(lambda: fast_server.status()["queued"] == 0, "all jobs are started", seconds=600)
    jobs = [fast_server.wait_for_job(job_id) for job_id in ids]
    assert {(job["status"], job["text"]) for job in jobs} == {("succeeded", jobs[0]["text"])}
    assert "fellow Americans" in jobs[0]["text"]
    after = curl("curl -X POST http://localhost:8002/model/unload", fast_server)
    assert after["memory_freed"]["ram_mb"] > 50
    assert fast_server.children() == set()


def test_status_responds_while_a_job_runs(server: ServerProcess, jfk: Path) -> None:
    job = server.submit(jfk)
    server.wait_for_job(job["id"], "running", "succeeded")
    status = curl("curl -s http://localhost:8002/model/status", server)
    assert (status["loaded"], status["in_flight"]) == (True, 1)
    server.wait_for_job(job["id"])


@pytest.mark.parametrize(
    ("command", "message"),
    [("load", "carregado com sucesso no CPU"), ("unload", "descarregado com sucesso do CPU")],
)
def test_messages_in_portuguese_on_request(server: ServerProcess, command: str, message: str) -> None:
    server.load()
    response = curl(f'curl -X POST -H "Accept-Language: pt-BR" http://localhost:8002/model/{command}', server)
    assert f"✅ Modelo 'tiny.en' {message}" in response["message"]
