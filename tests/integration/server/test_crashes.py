"""Killed at any moment: accepted work is finished once, and no process outlives the server."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from testing.server_process import Launch, ServerProcess, StartServer, upload, wait_until


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
def test_a_job_whose_worker_is_killed_gives_the_undisturbed_result(
    start_server: StartServer, long_clip: Path, engine: str
) -> None:
    server = start_server(engine)
    undisturbed = server.submit(long_clip)["id"]
    server.wait_for_job(undisturbed)
    disturbed = server.submit(long_clip)["id"]
    server.wait_for_job(disturbed, "running")
    server.worker().kill()
    found = server.wait_for_job(disturbed)
    assert (found["status"], found["attempts"]) == ("succeeded", 2)
    assert server.result(disturbed, "srt").text == server.result(undisturbed, "srt").text
    assert server.metric("whisper_worker_restarts_total", cause="crash") == 1


def test_a_job_whose_zygote_is_killed_succeeds(start_server: StartServer, long_clip: Path) -> None:
    server = start_server()
    job = server.submit(long_clip)["id"]
    server.wait_for_job(job, "running")
    server.zygote().kill()
    assert server.wait_for_job(job)["status"] == "succeeded"


def test_a_job_that_kills_its_worker_each_time_fails_with_the_cause(start_server: StartServer, long_clip: Path) -> None:
    server = start_server()
    job = server.submit(long_clip)["id"]
    for attempt in (1, 2, 3):
        wait_until(lambda wanted=attempt: server.job(job)["attempts"] == wanted, f"attempt {attempt}")
        wait_until(lambda: server.status()["in_flight"] == 1, "it runs")
        server.worker().kill()
    found = server.wait_for_job(job)
    assert (found["status"], found["error"]["code"]) == ("failed", "worker-lost")
    assert "SIGKILL" in found["error"]["detail"]


def test_a_killed_servers_jobs_are_finished_by_the_next_none_twice(
    launch: Launch, tmp_path: Path, longer_clip: Path, clip: Path
) -> None:
    with launch(data_dir=tmp_path) as killed:
        running = killed.submit(longer_clip)["id"]
        queued = [killed.submit(clip)["id"] for _ in range(20)]
        assert killed.job(running)["status"] == "running"
        killed.kill()
    with launch(data_dir=tmp_path) as server:
        found = {job_id: server.wait_for_job(job_id) for job_id in (running, *queued)}
        assert {job["status"] for job in found.values()} == {"succeeded"}
        assert found[running]["attempts"] == 2
        assert {found[job_id]["attempts"] for job_id in queued} == {1}
        assert server.metric("whisper_job_duration_seconds_count") == 21
        assert server.metric("whisper_jobs") == 21


def idle(server: ServerProcess, clip: Path) -> None:
    server.load()


def warm(server: ServerProcess, clip: Path) -> None:
    server.load()
    server.unload(depth="warm")


def importing(server: ServerProcess, clip: Path) -> None:
    server.client.post("/model/load", params={"wait": "false"})
    server.zygote()
    assert server.status()["state"] == "Loading"


def transcribing(server: ServerProcess, clip: Path) -> None:
    server.wait_for_job(server.submit(clip)["id"], "running")


@pytest.mark.parametrize("bring_to", [idle, warm, importing, transcribing])
def test_no_process_outlives_a_killed_server(
    start_server: StartServer, long_clip: Path, bring_to: Callable[[ServerProcess, Path], None]
) -> None:
    server = start_server()
    bring_to(server, long_clip)
    assert server.children()
    server.kill()
    wait_until(lambda: not server.processes(), "the end of all processes", seconds=10)


def test_a_stopped_server_resumes_its_running_job_without_counting_an_attempt(
    launch: Launch, tmp_path: Path, long_clip: Path
) -> None:
    with launch(data_dir=tmp_path) as stopped:
        job = stopped.submit(long_clip)["id"]
        stopped.wait_for_job(job, "running")
    with launch(data_dir=tmp_path) as server:
        found = server.wait_for_job(job)
        assert (found["status"], found["attempts"]) == ("succeeded", 1)


def test_a_client_waiting_at_shutdown_gets_its_jobs_location(launch: Launch, tmp_path: Path, long_clip: Path) -> None:
    with launch(data_dir=tmp_path) as stopped, ThreadPoolExecutor() as pool:
        stopped.load()
        waiting = pool.submit(stopped.transcribe, long_clip)
        wait_until(lambda: stopped.status()["in_flight"], "its job runs")
        # Asked twice, as by a person who is in a hurry: otherwise the client's answer is waited for.
        stopped.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "server.stopping" in stopped.log.read_text(), "the server has heard it")
        stopped.process.send_signal(signal.SIGINT)
        answer = waiting.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "waited-too-long")
    with launch(data_dir=tmp_path) as server:
        job_id = answer.headers["Location"].rpartition("/")[2]
        assert server.wait_for_job(job_id)["status"] == "succeeded"


def test_a_stream_that_the_servers_end_cuts_leaves_its_job_to_the_next(
    launch: Launch, tmp_path: Path, long_clip: Path
) -> None:
    with launch(data_dir=tmp_path) as stopped:
        form = {"files": {"file": upload(long_clip)}, "data": {"stream": "true"}}
        with stopped.client.stream("POST", "/v1/audio/transcriptions", **form) as answer:
            job_id = answer.headers["x-job-id"]
            stopped.process.send_signal(signal.SIGTERM)
            with suppress(httpx.RemoteProtocolError):
                answer.read()
    with launch(data_dir=tmp_path) as server:
        assert server.wait_for_job(job_id)["status"] == "succeeded"
