"""Requests that are sent again under their Idempotency-Key while new work is refused."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from testing.server_process import ServerProcess, StartServer, upload, wait_until


def ask(server: ServerProcess, path: Path, *, key: str) -> httpx.Response:
    return server.client.post(
        "/v1/audio/transcriptions", files={"file": upload(path)}, headers={"Idempotency-Key": key}
    )


@pytest.fixture
def damaged(tmp_path: Path, weights: dict[str, Path]) -> Path:
    """A checkpoint that is found out after seconds of imports: time to do things meanwhile."""
    path = tmp_path / "tiny.en.pt"
    shutil.copyfile(weights["openai-whisper"], path)
    os.truncate(path, 3_000_000)
    return path


def test_a_waiting_client_gets_the_failed_load_while_its_job_continues(
    start_server: StartServer, clip: Path, damaged: Path
) -> None:
    server = start_server("openai-whisper", WHISPER_MODEL_PATH=str(damaged))
    job = server.submit(clip, headers={"Idempotency-Key": "once"})["id"]
    server.wait_for_state("Loading")
    answer = ask(server, clip, key="once")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "checkpoint-damaged")
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.job(job)["status"] == "queued"
    assert server.job(job)["waiting_for"]["code"] == "checkpoint-damaged"


def test_a_job_that_was_accepted_outlives_the_client_that_waited_for_it_first(
    start_server: StartServer, clip: Path, damaged: Path
) -> None:
    server = start_server("openai-whisper", WHISPER_MODEL_PATH=str(damaged))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, server, clip, key="once")
        wait_until(lambda: server.client.get("/jobs").json()["jobs"], "its job is stored")
        job = server.submit(clip, headers={"Idempotency-Key": "once"})
        assert job["status"] == "queued"
        assert waiting.result().json()["error"]["code"] == "checkpoint-damaged"
    assert server.job(job["id"])["status"] == "queued"


def test_an_answer_is_given_again_although_the_model_cannot_be_loaded(
    start_server: StartServer, clip: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.symlink_to(weights["faster-whisper"])
    server = start_server(WHISPER_MODEL_PATH=str(model))
    first = ask(server, clip, key="once")
    assert first.headers["x-cold-start"] == "true"
    server.unload()
    model.unlink()
    assert server.client.post("/model/load").is_error
    again = ask(server, clip, key="once")
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert "x-cold-start" not in again.headers, "it waited for no load"
    assert ask(server, clip, key="another").status_code == 503
    assert server.metric("whisper_cold_start_seconds_count", phase="total") == 1
