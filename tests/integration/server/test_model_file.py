"""A server with a model file: real processes, real weights, real clock."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from testing.controller_harness import manifest
from testing.imports import imported_with
from testing.server_process import Json, ServerProcess, StartServer, upload, wait_until
from whispermodel.spec import Spec
from whispermodel.status import Status

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, weights: dict[str, Path]) -> Write:
    """Write a model file for tiny.en, or put another in its place: write(idle=...)."""

    def written(engine: str = "faster-whisper", *, size: str = "tiny.en", **spec: Any) -> Path:
        whole = manifest(size, **spec)
        whole["spec"]["model"] |= {"engine": engine, "source": {"path": str(weights[engine])}}
        path = tmp_path / "model.yaml"
        (tmp_path / "new").write_text(yaml.safe_dump(whole))
        (tmp_path / "new").replace(path)
        return path

    return written


@pytest.fixture
def obeying(start_server: StartServer, write: Write) -> Callable[..., ServerProcess]:
    """Start a server with a model file: obeying(idle=...)."""

    def started(*, data_dir: Path | None = None, settings: dict[str, str] | None = None, **spec: Any) -> ServerProcess:
        return start_server(data_dir=data_dir, WHISPER_MODEL_FILE=str(write(**spec)), **(settings or {}))

    return started


def resource(server: ServerProcess) -> Json:
    return server.client.get("/model/resource").raise_for_status().json()


def status(server: ServerProcess) -> Status:
    return Status.model_validate(resource(server)["status"], extra="forbid")


def condition(server: ServerProcess, kind: str) -> Json:
    [found] = [one for one in resource(server)["status"]["conditions"] if one["type"] == kind]
    return found


def until_state(server: ServerProcess, state: str) -> Status:
    return wait_until(lambda: found if (found := status(server)).state == state else None, f"state {state}", seconds=60)


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_without_a_model_file_there_is_no_resource(shared_server: ServerProcess) -> None:
    answer = shared_server.client.get("/model/resource")
    assert (answer.status_code, answer.json()["code"]) == (404, "no-model-file")


def test_idle_model_goes_warm_then_to_zero_and_a_request_wakes_it(
    obeying: Callable[..., ServerProcess], clip: Path
) -> None:
    server = obeying(idle={"unloadAfter": "2s", "scaleToZeroAfter": "6s"})
    assert status(server).state == "Zero"
    assert server.transcribe(clip).status_code == 200
    wait_until(lambda: server.status()["depth"] == "warm", "warm", seconds=20)
    assert len(server.children()) == 1
    zero = until_state(server, "Zero")
    assert server.children() == set()
    assert psutil.Process(server.pid).children() == []
    assert zero.last_unload is not None
    assert zero.last_unload.fully_released
    assert zero.last_unload.freed_resident_bytes > 10 * 2**20
    assert server.transcribe(clip).status_code == 200
    assert until_state(server, "Loaded").last_load is not None
    assert server.metric("whisper_model_unloads_total", reason="idle") == 2


def test_a_request_that_is_refused_leaves_it_at_zero(obeying: Callable[..., ServerProcess], clip: Path) -> None:
    server = obeying(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"})
    before = status(server)
    for path, data in (("/jobs", {"task": "sing"}), ("/v1/audio/transcriptions", {"model": "gpt-4o"})):
        answer = server.client.post(path, files={"file": upload(clip)}, data=data)
        assert answer.status_code in (400, 404)
    zero = until_state(server, "Zero")
    # The process that the start prepared may be ending still.
    wait_until(lambda: server.children() == set(), "no process is left")
    assert (zero.idle_since, zero.message) == (None, before.message)


def test_a_manual_load_against_the_spec_says_what_decides(obeying: Callable[..., ServerProcess]) -> None:
    server = obeying(engine="openai-whisper", desiredState="Zero")
    answer = server.client.post("/model/load")
    assert (answer.status_code, answer.json()["code"]) == (409, "overruled")
    assert "Zero by desiredState since " in answer.json()["detail"]


def test_without_a_terminal_the_table_is_in_the_log(obeying: Callable[..., ServerProcess]) -> None:
    server = obeying(desiredState="Loaded")
    until_state(server, "Loaded")

    def row() -> list[str]:
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        titles, row, message = [line["table"] for line in lines if line["event"] == "model.table"][-1]
        assert titles.split()[:4] == ["NAME", "STATE", "TARGET", "REASON"]
        assert message.startswith("Loaded by desiredState since ")
        return row.split()[:4]

    wait_until(lambda: row() == ["test", "Loaded", "Loaded", "DesiredState"], "the table of the last transition")


def test_the_resource_is_what_kubectl_would_show(obeying: Callable[..., ServerProcess]) -> None:
    server = obeying(schedule={"timeZone": "America/Sao_Paulo"})
    shown = resource(server)
    assert (shown["apiVersion"], shown["kind"]) == ("audio-transcriber.io/v1alpha1", "WhisperModel")
    assert shown["metadata"] == {"name": "test", "generation": 1}
    assert Spec.model_validate(shown["spec"], by_name=False).schedule.time_zone == "America/Sao_Paulo"
    found = status(server)
    assert (found.observed_generation, found.reason) == (1, "Idle")
    assert found.memory is not None
    assert found.memory.resident_bytes > 20 * 2**20
    assert len(found.conditions) == 6


def test_a_change_of_mode_at_its_minute_happens_to_the_second(obeying: Callable[..., ServerProcess]) -> None:
    """An override that expires fires like a schedule's entry, and needs no full minute."""
    server = obeying(desiredState="Zero", override={"state": "Loaded", "until": soon(12)})
    loaded = until_state(server, "Loaded")
    assert (loaded.reason, loaded.last_load.trigger if loaded.last_load else None) == ("Override", "override")
    assert loaded.next_transition is not None
    until_state(server, "Zero")
    late = datetime.now(UTC) - loaded.next_transition.time
    assert timedelta() <= late < timedelta(seconds=4)


def test_an_exception_that_begins_unloads_and_its_end_loads(
    obeying: Callable[..., ServerProcess], write: Write
) -> None:
    schedule = {"entries": [{"name": "always", "cron": "* * * * *", "state": "Loaded"}]}
    server = obeying(schedule=schedule)
    until_state(server, "Loaded")
    away = {"name": "away", "from": soon(4), "to": soon(10), "state": "Unloaded"}
    write(schedule=schedule | {"exceptions": [away]})
    assert until_state(server, "Unloaded").reason == "Exception"
    assert server.children() == set()
    assert until_state(server, "Loaded").reason == "Schedule"


def test_refuse_responds_503_until_the_model_should_be_loaded(
    obeying: Callable[..., ServerProcess], clip: Path
) -> None:
    away = {"name": "away", "from": soon(-60), "to": soon(15), "state": "Zero"}
    server = obeying(demandPolicy="Refuse", schedule={"exceptions": [away]})
    for path in ("/jobs", "/v1/audio/transcriptions"):
        answer = server.client.post(path, files={"file": upload(clip)})
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 15
    assert server.client.get("/health/ready").json()["status"] == "refusing"
    assert server.children() == set()
    wait_until(lambda: server.client.get("/health/ready").is_success, "work is accepted again", seconds=30)
    assert server.transcribe(clip).status_code == 200


def test_a_manual_command_survives_a_kill(obeying: Callable[..., ServerProcess]) -> None:
    server = obeying(idle={"unloadAfter": "1s"})
    server.load()
    at = server.status()["manual"]["at"]
    server.kill()
    later = obeying(data_dir=server.data_dir, idle={"unloadAfter": "1s"})
    assert later.status()["manual"] == {"state": "Loaded", "at": at}
    assert until_state(later, "Loaded").reason == "Manual"


def test_a_call_by_the_operator_is_no_manual_command(obeying: Callable[..., ServerProcess], tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    digest = hashlib.sha256(b"robot").hexdigest()
    keys.write_text(f"- {{name: robot, sha256: {digest}, scopes: [operator]}}\n")
    server = obeying(settings={"WHISPER_API_KEYS_FILE": str(keys)})
    server.client.headers["Authorization"] = "Bearer robot"
    server.load()
    assert server.status()["manual"] is None
    assert until_state(server, "Unloaded").manual is None


def test_an_invalid_edit_keeps_the_last_valid_version_and_a_valid_one_is_applied(
    obeying: Callable[..., ServerProcess], write: Write
) -> None:
    server = obeying()
    good = write()
    good.write_text("spec: {")
    degraded = wait_until(
        lambda: found if (found := condition(server, "Degraded"))["status"] == "True" else None, "Degraded", seconds=20
    )
    assert "is not YAML: line 1" in degraded["message"]
    assert (status(server).target, status(server).observed_generation) == ("Unloaded", 1)
    write(desiredState="Loaded")
    loaded = until_state(server, "Loaded")
    assert (loaded.reason, loaded.observed_generation) == ("DesiredState", 2)
    assert condition(server, "Degraded")["status"] == "False"


def test_another_engine_takes_over_without_losing_the_running_job(
    obeying: Callable[..., ServerProcess], write: Write, long_clip: Path, clip: Path
) -> None:
    server = obeying()
    running = server.submit(long_clip)["id"]
    server.wait_for_job(running, "running")
    queued = server.submit(clip)["id"]
    write("openai-whisper")
    wait_until(lambda: status(server).observed_generation == 2, "the edit is seen", seconds=20)
    assert [server.wait_for_job(job)["attempts"] for job in (running, queued)] == [1, 1]
    assert server.wait_for_job(queued)["status"] == "succeeded"
    assert server.metric("whisper_model_info", engine="openai-whisper", model="tiny.en") == 1
    last = status(server).last_load
    assert last is not None
    assert "skeleton" in last.phases


def test_weights_with_another_digest_fail_the_load(
    start_server: StartServer, weights: dict[str, Path], clip: Path
) -> None:
    for engine in ("faster-whisper", "openai-whisper"):
        server = start_server(engine, WHISPER_MODEL_SHA256="0" * 64)
        answer = server.client.post("/model/load")
        assert (answer.status_code, answer.json()["code"]) == (503, "checkpoint-damaged")
        assert f"expected {'0' * 64}" in server.status()["failure"]
    digest = hashlib.sha256(weights["openai-whisper"].read_bytes()).hexdigest()
    assert start_server("openai-whisper", WHISPER_MODEL_SHA256=digest.upper()).transcribe(clip).status_code == 200


def test_status_shows_when_work_began(start_server: StartServer, clip: Path) -> None:
    server = start_server()
    server.load()
    assert server.status()["work_began_seconds"] is None
    server.transcribe(clip)
    found = server.status()
    assert 0 < found["idle_seconds"] < found["work_began_seconds"] < 60


def test_an_upload_that_is_in_progress_counts_as_waiting_work(shared_server: ServerProcess) -> None:
    server, rest = shared_server, threading.Event()

    def form() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        assert rest.wait(60)
        yield b"no audio\r\n--x--\r\n"

    with ThreadPoolExecutor() as pool:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = pool.submit(server.client.post, "/jobs", content=form(), headers=headers)
        try:
            wait_until(lambda: server.status()["queued"] == 1, "the upload counts", seconds=20)
            assert server.status()["in_flight"] == 0
        finally:
            rest.set()
        assert answer.result().status_code == 415
    assert server.status()["queued"] == 0


def serve(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "WHISPER_DATA_DIR": str(folder)}
    command = [sys.executable, "-m", "whisper_inference", "serve", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "words"), [("kind: Pod", "kind: Input should be"), ("{", "is not YAML"), (None, "cannot be read")]
)
def test_a_file_that_cannot_be_used_ends_the_start_with_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "model.yaml"
    if text is not None:
        path.write_text(text)
    run = serve("--model-file", str(path), folder=tmp_path / "data")
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert words in run.stderr
    assert str(path) in run.stderr


def test_the_schedule_is_not_imported_without_a_model_file() -> None:
    imported = imported_with(
        "whisper_inference.main", "whisper_inference.api.app", "whisper_inference.service.assembly"
    )
    needless = {"whispermodel.planning.planner", "whispermodel.spec", "cronsim", "whisper_inference.standalone"}
    assert needless & imported == set()
