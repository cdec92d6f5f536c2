"""Starting: what stops it, what does not, and what a model that cannot be loaded does to requests."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from testing.server_process import Launch, ServerProcess, StartServer, upload, wait_until


def run_to_its_end(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whisper_inference", "serve"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "WHISPER_PRELOAD_MODEL": "false", **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_second_server_on_the_same_data_folder_does_not_start(shared_server: ServerProcess) -> None:
    first = shared_server
    second = run_to_its_end(WHISPER_DATA_DIR=str(first.data_dir), WHISPER_PORT="0")
    assert second.returncode != 0
    assert f"is in use by another server (process {first.pid})" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.client.get("/health").is_success


def test_a_misspelt_setting_stops_the_start_with_a_hint(tmp_path: Path) -> None:
    run = run_to_its_end(WHISPER_DATA_DIR=str(tmp_path), WHISPER_MODEL_SIZE="tiny", WHISPER_UNLOAD_AFTR="1s")
    assert run.returncode != 0
    assert "WHISPER_UNLOAD_AFTR is not a known setting: did you mean WHISPER_UNLOAD_AFTER?" in run.stderr


def test_a_port_that_is_taken_stops_the_start(shared_server: ServerProcess, tmp_path: Path) -> None:
    taken = httpx.URL(shared_server.url).port
    run = run_to_its_end(WHISPER_DATA_DIR=str(tmp_path), WHISPER_PORT=str(taken))
    assert run.returncode != 0
    assert "address already in use" in run.stderr.lower()
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "blocked",
    ["data", "data/lock", "data/audio", "data/jobs.sqlite3", "WHISPER_OBJECT_STORE_URL", "WHISPER_DATABASE_URL"],
)
def test_a_place_that_cannot_hold_jobs_stops_the_start_with_its_name(tmp_path: Path, blocked: str) -> None:
    settings = {"WHISPER_OBJECT_STORE_URL": "file:///nonexistent", "WHISPER_DATABASE_URL": "sqlite:////nonexistent/db"}
    given = {blocked: settings[blocked]} if blocked in settings else {}
    if not given:
        (tmp_path / blocked).parent.mkdir(exist_ok=True)
        # A file where a folder is needed, or the other way round.
        (tmp_path / blocked).mkdir() if blocked == "data/lock" else (tmp_path / blocked).write_bytes(b"x" * 4096)
    run = run_to_its_end(
        WHISPER_DATA_DIR=str(tmp_path / "data"), WHISPER_PORT="0", WHISPER_PRELOAD_MODEL="true", **given
    )
    assert run.returncode != 0
    assert "Jobs cannot be stored in" in run.stderr
    assert "Traceback" not in run.stderr
    assert "never retrieved" not in run.stderr


def test_a_database_that_fails_later_is_not_an_internal_error(start_server: StartServer, clip: Path) -> None:
    server = start_server()
    with closing(sqlite3.connect(server.data_dir / "jobs.sqlite3")) as database:
        database.execute("ALTER TABLE jobs RENAME TO gone")
    answer = server.client.post("/jobs", files={"file": upload(clip)})
    assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.client.get("/health/live").is_success


def test_without_preloading_nothing_is_started_until_work_comes(start_server: StartServer, clip: Path) -> None:
    server = start_server()
    wait_until(lambda: server.client.get("/health/startup").is_success, "started")
    assert server.client.get("/health/ready").status_code == 200
    assert server.status()["state"] == "Unloaded"
    assert server.children() == set()
    assert server.transcribe(clip).status_code == 200
    assert server.status()["loaded"] is True


@pytest.fixture(scope="class")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "tiny.en-ct2"


@pytest.fixture(scope="class")
def modelless(launch: Launch, weights_folder: Path) -> Iterator[ServerProcess]:
    with launch(WHISPER_MODEL_PATH=str(weights_folder), WHISPER_PRELOAD_MODEL="true") as server:
        wait_until(lambda: server.client.get("/health/startup").is_success, "the preload has ended")
        yield server


class TestAModelThatCannotBeLoaded:
    def test_does_not_fail_the_start_and_reports_the_cause(
        self, modelless: ServerProcess, weights_folder: Path
    ) -> None:
        startup = modelless.client.get("/health/startup")
        assert startup.status_code == 200
        assert str(weights_folder) in startup.json()["detail"]
        assert str(weights_folder) in modelless.status()["failure"]
        assert modelless.status()["state"] == "Failed"

    def test_refuses_waiting_clients_with_the_cause(
        self, modelless: ServerProcess, clip: Path, weights_folder: Path
    ) -> None:
        answer = modelless.transcribe(clip)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["code"] == "checkpoint-missing"
        assert str(weights_folder) in answer.json()["error"]["message"]

    def test_refuses_jobs_with_the_cause_while_it_backs_off(
        self, modelless: ServerProcess, clip: Path, weights_folder: Path
    ) -> None:
        modelless.client.post("/model/load")
        answer = modelless.client.post("/jobs", files={"file": upload(clip)})
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert str(weights_folder) in answer.json()["detail"]

    def test_is_loaded_by_the_next_task_once_it_can_be(
        self, modelless: ServerProcess, clip: Path, weights_folder: Path, weights: dict[str, Path]
    ) -> None:
        shutil.copytree(weights["faster-whisper"], weights_folder)
        answer = wait_until(
            lambda: found if (found := modelless.transcribe(clip)).status_code != 503 else None, "the back-off's end"
        )
        assert answer.status_code == 200
        assert modelless.client.get("/health/startup").json()["detail"] is None
