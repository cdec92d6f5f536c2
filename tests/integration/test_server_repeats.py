"""Requests that are sent again under their Idempotency-Key while new work is refused."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.integration.conftest import StartServer
from tests.server_process import ServerProcess, upload


def ask(server: ServerProcess, path: Path, *, key: str) -> httpx.Response:
    return server.client.post(
        "/v1/audio/transcriptions", files={"file": upload(path)}, headers={"Idempotency-Key": key}
    )


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
