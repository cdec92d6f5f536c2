"""A stop with WHISPER_DRAIN: accepted work is finished first, new work goes elsewhere."""

from __future__ import annotations

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testing.server_process import STOP_SECONDS, ServerProcess, StartServer, upload, wait_until
from whisper_inference.jobs.unfetched import CLIENT_WAIT_SECONDS


def request_stop(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.client.get("/health/ready").status_code == 503, "not ready any more")


def restarted(server: ServerProcess, start_server: StartServer) -> ServerProcess:
    assert server.process.wait(STOP_SECONDS) == 0
    return start_server(data_dir=server.data_dir)


def test_running_and_queued_jobs_are_finished_before_the_end(
    start_server: StartServer, long_clip: Path, clip: Path
) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    running, queued = server.submit(long_clip)["id"], server.submit(clip)["id"]
    server.wait_for_job(running, "running")
    request_stop(server)
    assert server.job(running)["status"] == "running"
    for job in (running, queued):
        assert server.wait_for_job(job)["status"] == "succeeded", "its client still finds it here"
    later = restarted(server, start_server)
    assert [(later.job(job)["status"], later.job(job)["attempts"]) for job in (running, queued)] == [
        ("succeeded", 1),
        ("succeeded", 1),
    ]


def test_a_drain_refuses_new_work_and_still_answers_reads(
    start_server: StartServer, long_clip: Path, clip: Path
) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    first = server.submit(clip)["id"]
    server.wait_for_job(first)
    job = server.submit(long_clip)["id"]
    server.wait_for_job(job, "running")
    request_stop(server)
    for path in ("/jobs", "/v1/audio/transcriptions"):
        answer = server.client.post(path, files={"file": upload(clip)})
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
    assert server.status()["in_flight"] == 1
    assert "fellow" in server.result(first, "text").text
    assert server.client.get("/health/live").is_success
    assert server.client.get("/metrics").is_success


def test_a_repeat_brings_no_new_work_and_gets_its_job(start_server: StartServer, long_clip: Path, clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    key = {"Idempotency-Key": "once"}
    ended = server.submit(clip, headers=key)["id"]
    server.wait_for_job(ended)
    running = server.submit(long_clip)["id"]
    server.wait_for_job(running, "running")
    request_stop(server)
    assert server.submit(clip, headers=key)["id"] == ended
    answer = server.client.post("/jobs", files={"file": upload(long_clip)}, headers=key)
    assert answer.json()["code"] == "idempotency-conflict"
    answer = server.client.post("/jobs", files={"file": upload(clip)}, headers={"Idempotency-Key": "another"})
    assert answer.status_code == 503


def test_a_repeat_whose_audio_is_in_progress_is_waited_for(
    start_server: StartServer, clip: Path, long_clip: Path
) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    key = {"Idempotency-Key": "once"}
    first = server.client.post("/v1/audio/transcriptions", files={"file": upload(clip)}, headers=key)
    request = server.client.build_request("POST", "/v1/audio/transcriptions", files={"file": upload(clip)}, headers=key)
    body = request.read()
    sent = {**request.headers, "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if name != "host")
    with open_request(server, request.url.path, f"{head}\r\n") as again:
        again.sendall(body[:1000])
        job = server.submit(long_clip)["id"]
        request_stop(server)
        server.wait_for_job(job)
        server.result(job, "text")
        time.sleep(3)
        assert server.client.get("/health/live").is_success
        again.sendall(body[1000:])
        answer = read_answer(again)
    assert answer.startswith("HTTP/1.1 200")
    assert answer.endswith(first.text)


def test_a_repeat_counts_as_fetching_the_result(start_server: StartServer, clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    key = {"Idempotency-Key": "once"}
    server.submit(clip, headers=key)
    request_stop(server)
    wait_until(lambda: server.submit(clip, headers=key)["status"] == "succeeded", "it has ended")
    began = time.monotonic()
    assert server.process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < CLIENT_WAIT_SECONDS / 2


def test_a_client_that_waits_for_its_answer_gets_it(start_server: StartServer, clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(server.transcribe, clip)
        wait_until(lambda: server.status()["in_flight"] + server.status()["queued"], "it has arrived")
        request_stop(server)
        assert answer.result().status_code == 200


def test_results_can_be_fetched_during_the_drain(start_server: StartServer, clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    jobs = [server.submit(clip)["id"] for _ in range(3)]
    request_stop(server)
    wait_until(lambda: "unfetched" in server.log.read_text(), "all work is done")
    assert "fellow" in server.result(jobs[0], "text").text
    assert server.job(jobs[1])["status"] == "succeeded"
    assert b"event: done" in server.client.get(f"/jobs/{jobs[2]}/events").content
    time.sleep(1)
    for job in jobs[1:]:
        assert "fellow" in server.result(job, "text").text, "known to have ended, but not fetched yet"
    began = time.monotonic()
    assert server.process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < 3, "nobody else is waited for"


def test_clients_that_know_their_job_has_ended_are_not_waited_for_long(start_server: StartServer, clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    job = server.submit(clip)["id"]
    request_stop(server)
    server.wait_for_job(job, "succeeded")
    began = time.monotonic()
    assert server.process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < CLIENT_WAIT_SECONDS / 2


def test_a_drain_does_not_wait_for_a_client_that_has_its_answer(start_server: StartServer, clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    assert server.transcribe(clip).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(STOP_SECONDS) == 0
    assert "server.results_unfetched" not in server.log.read_text()


def test_a_client_that_hangs_up_meanwhile_ends_its_job(start_server: StartServer, long_clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    form = {"files": {"file": upload(long_clip)}, "data": {"stream": "true"}}
    with server.client.stream("POST", "/v1/audio/transcriptions", **form) as answer:
        job = answer.headers["x-job-id"]
        next(answer.iter_lines())
        request_stop(server)
    # It ends as soon as nobody has work for it, so it cannot be asked.
    assert server.process.wait(STOP_SECONDS) == 0
    lines = map(json.loads, server.log.read_text().splitlines())
    assert [line["job"] for line in lines if line["event"] == "job.client_gone"] == [job]


def test_requests_cut_off_by_the_shutdown_get_a_problem_document(start_server: StartServer, long_clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    server.wait_for_job(server.submit(long_clip)["id"], "running")
    upload_begins = "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n2\r\n--\r\n"
    with (
        open_request(server, "/model/unload?timeout=200", "Content-Length: 0\r\n\r\n") as unload,
        open_request(server, "/jobs", upload_begins) as job,
        open_request(server, "/v1/audio/transcriptions", upload_begins) as transcription,
    ):
        wait_until(lambda: server.status()["queued"] == 2, "both uploads are in progress")
        request_stop(server)
        server.process.send_signal(signal.SIGTERM)
        answers = [read_answer(connection) for connection in (unload, job, transcription)]
    assert [answer.splitlines()[0] for answer in answers] == ["HTTP/1.1 503 Service Unavailable"] * 3
    assert all('"code":"shutting-down"' in answer for answer in answers)
    assert server.process.wait(STOP_SECONDS) == 0
    assert "Traceback" not in server.log.read_text()


def open_request(server: ServerProcess, path: str, rest: str) -> socket.socket:
    """Send a request whose answer will take its time."""
    connection = server.connect()
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{rest}".encode())
    return connection


def read_answer(connection: socket.socket) -> str:
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_a_second_signal_ends_it_at_once_and_the_job_goes_on_after_the_restart(
    start_server: StartServer, long_clip: Path
) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    job = server.submit(long_clip)["id"]
    server.wait_for_job(job, "running")
    request_stop(server)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    later = restarted(server, start_server)
    assert time.monotonic() - began < 15
    assert later.wait_for_job(job)["status"] == "succeeded"


def test_work_beyond_the_drain_limit_continues_after_the_restart(start_server: StartServer, long_clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="500ms")
    job = server.submit(long_clip)["id"]
    server.wait_for_job(job, "running")
    server.process.send_signal(signal.SIGTERM)
    later = restarted(server, start_server)
    found = later.wait_for_job(job)
    assert (found["status"], found["attempts"]) == ("succeeded", 1)


def test_a_server_without_work_ends_at_once(start_server: StartServer) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < 10


def test_unfinished_jobs_are_logged_whatever_ended_the_server(start_server: StartServer, long_clip: Path) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    jobs = [server.submit(long_clip)["id"] for _ in range(2)]
    server.wait_for_job(jobs[0], "running")
    request_stop(server)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(STOP_SECONDS) == 0
    lines = {line["event"]: line for line in map(json.loads, server.log.read_text().splitlines())}
    assert set(lines["server.jobs_left"]["jobs"]) == set(jobs)
    assert lines["job.worker_gone"]["error"] == "the server is shutting down"


def test_a_model_that_cannot_be_loaded_does_not_hold_up_the_end_and_the_job_stays_queued(
    start_server: StartServer, clip: Path, tmp_path: Path
) -> None:
    server = start_server(WHISPER_DRAIN="1h", WHISPER_MODEL_PATH=str(tmp_path / "nowhere"))
    job = server.submit(clip)["id"]
    server.wait_for_state("Failed")
    request_stop(server)
    assert server.process.wait(STOP_SECONDS) == 0
    [left] = [line for line in map(json.loads, server.log.read_text().splitlines()) if "jobs_left" in line["event"]]
    assert (left["jobs"], left["more"]) == ([job], False)
    assert "There is no checkpoint at" in left["cause"]
    assert str(server.data_dir) in left["kept"]
    later = start_server(data_dir=server.data_dir)
    assert later.wait_for_job(job)["status"] == "succeeded"
