"""Unloading: what it waits for, what it leaves, and what it never does to work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from testing.server_process import Launch, ServerProcess, StartServer, upload, wait_until


@pytest.fixture(autouse=True)
def quiet(server: ServerProcess) -> Iterator[None]:
    """Leave no work to the next test."""
    yield
    for status in ("queued", "running"):
        for job in server.client.get("/jobs", params={"status": status}).json()["jobs"]:
            server.client.delete(f"/jobs/{job['id']}")
    wait_until(lambda: server.status()["in_flight"] == 0, "nothing runs")


def started_long_job(server: ServerProcess, long_clip: Path) -> str:
    job = server.submit(long_clip)
    server.wait_for_job(job["id"], "running")
    return job["id"]


def test_an_unload_that_cannot_wait_names_the_running_job_and_happens_after_it(
    server: ServerProcess, long_clip: Path
) -> None:
    job = started_long_job(server, long_clip)
    answer = server.unload(timeout="0.2")
    assert answer.status_code == 202
    assert answer.json()["success"] is True
    assert answer.json()["pending"] is True
    assert job in answer.json()["message"]
    assert server.job(job)["status"] == "running"
    server.wait_for_state("Unloaded")
    assert server.job(job)["status"] == "succeeded"


def test_an_unload_waits_for_the_running_job(server: ServerProcess, long_clip: Path) -> None:
    job = started_long_job(server, long_clip)
    answer = server.unload(timeout="200")
    assert answer.status_code == 200
    assert answer.json()["fully_released"] is True
    assert server.job(job)["status"] == "succeeded"


def test_jobs_that_wait_behind_an_unload_load_the_model_again(
    server: ServerProcess, long_clip: Path, clip: Path
) -> None:
    started_long_job(server, long_clip)
    waiting = server.submit(clip)["id"]
    loads = server.metric("whisper_model_loads_total")
    assert server.unload(wait="false").status_code == 202
    assert server.wait_for_job(waiting)["status"] == "succeeded"
    assert server.metric("whisper_model_loads_total") == loads + 1


def test_a_forced_unload_requeues_the_running_job_and_it_still_succeeds(server: ServerProcess, long_clip: Path) -> None:
    job = started_long_job(server, long_clip)
    answer = server.unload(force="true")
    assert answer.status_code == 200
    found = server.wait_for_job(job)
    assert found["status"] == "succeeded"
    assert found["text"].count("fellow Americans") == 4


@pytest.mark.parametrize("query", [{"wait": "false"}, {"timeout": "0"}])
def test_an_unload_that_does_not_wait_is_answered_at_once(
    server: ServerProcess, long_clip: Path, query: dict[str, str]
) -> None:
    started_long_job(server, long_clip)
    assert server.unload(**query).status_code == 202
    server.wait_for_state("Unloaded")


@pytest.mark.parametrize(
    ("language", "words"), [("en", "is unloading; GET /model/status reports"), ("pt-BR", "está sendo descarregado;")]
)
def test_an_unload_that_nothing_holds_up_names_no_work(server: ServerProcess, language: str, words: str) -> None:
    server.load()
    query, headers = {"wait": "false"}, {"Accept-Language": language}
    answer = server.client.post("/model/unload", params=query, headers=headers)
    assert (answer.status_code, answer.json()["pending"]) == (202, True)
    assert words in answer.json()["message"]
    server.wait_for_state("Unloaded")


def test_status_repeats_the_answers_of_the_last_load_and_unload(start_server: StartServer) -> None:
    server = start_server()
    found = server.status()
    assert (found["last_load"], found["last_unload"]) == (None, None)
    load, unload = server.load(), server.unload().json()
    found = server.status()
    ages = [found[last].pop("seconds_ago") for last in ("last_unload", "last_load")]
    assert 0 <= ages[0] < ages[1] < 60
    assert found["last_load"] == {"trigger": "manual"} | {
        name: load[name] for name in ("device", "load_seconds", "phases")
    }
    names = ("device_was", "memory_freed", "fully_released", "unload_seconds")
    assert found["last_unload"] == {name: unload[name] for name in names}


def test_a_warm_unload_leaves_the_zygote_alone(server: ServerProcess) -> None:
    server.load()
    zygote = server.zygote().pid
    assert server.unload(depth="warm").status_code == 200
    assert server.children() == {zygote}
    assert server.status()["depth"] == "warm"


def test_a_cold_unload_leaves_the_api_process_alone(server: ServerProcess) -> None:
    server.load()
    assert server.unload(depth="cold").status_code == 200
    assert psutil.Process(server.pid).children() == []
    assert server.children() == set()


def test_a_cold_unload_after_a_warm_one_ends_the_zygote(server: ServerProcess) -> None:
    server.load()
    server.unload(depth="warm")
    assert server.unload(depth="cold").status_code == 200
    assert server.children() == set()


def test_an_unload_while_loading_cancels_the_load(server: ServerProcess) -> None:
    server.unload()
    assert server.client.post("/model/load", params={"wait": "false"}).status_code == 202
    server.wait_for_state("Loading")
    assert server.unload().status_code == 200
    assert server.status()["state"] == "Unloaded"
    assert server.children() == set()


def test_a_load_that_an_unload_cancels_says_so(server: ServerProcess) -> None:
    server.unload()
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(server.client.post, "/model/load")
        server.wait_for_state("Loading")
        server.unload()
        answer = loading.result()
    assert answer.status_code == 409
    assert answer.json()["code"] == "superseded"


def test_loading_what_is_loaded_loads_nothing(server: ServerProcess) -> None:
    server.load()
    loads = server.metric("whisper_model_loads_total")
    again = server.load()
    assert again["success"] is True
    assert again["load_seconds"] == 0
    assert server.metric("whisper_model_loads_total") == loads


def test_unloading_what_is_unloaded_frees_nothing(server: ServerProcess) -> None:
    server.unload()
    again = server.unload().json()
    assert again["success"] is True
    assert again["memory_freed"] == {"ram_mb": 0.0, "vram_mb": 0.0}
    assert again["device_was"] is None


def test_a_load_without_wait_responds_at_once(server: ServerProcess) -> None:
    server.unload()
    answer = server.client.post("/model/load", params={"wait": "false"})
    assert (answer.status_code, answer.headers["location"]) == (202, "/model/status")
    server.wait_for_state("Loaded")


@pytest.fixture(scope="module")
def idle_server(launch: Launch) -> Iterator[ServerProcess]:
    with launch(WHISPER_UNLOAD_AFTER="1s") as server:
        yield server


def test_an_idle_model_becomes_warm_and_then_cold(idle_server: ServerProcess) -> None:
    idle_server.load()
    wait_until(lambda: idle_server.status()["depth"] == "warm", "warm")
    wait_until(lambda: idle_server.status()["depth"] == "cold", "cold")
    assert idle_server.children() == set()
    assert idle_server.metric("whisper_model_unloads_total", reason="idle") == 2


def test_the_first_request_after_an_idle_unload_says_what_it_waited_for(idle_server: ServerProcess, clip: Path) -> None:
    idle_server.wait_for_state("Unloaded")
    answer = idle_server.transcribe(clip)
    assert answer.status_code == 200
    assert answer.headers["X-Cold-Start"] == "true"
    phases = {phase.split(";")[0] for phase in answer.headers["Server-Timing"].split(", ")}
    assert phases >= {"upload", "load", "queue", "transcribe", "total"}


def test_a_job_that_outlasts_the_idle_time_is_not_interrupted(idle_server: ServerProcess, long_clip: Path) -> None:
    job = idle_server.submit(long_clip)["id"]
    found = idle_server.wait_for_job(job)
    assert (found["status"], found["attempts"]) == ("succeeded", 1)


def look_at(server: ServerProcess) -> None:
    for path in ("/health", "/health/ready", "/metrics", "/model/status"):
        server.client.get(path).raise_for_status()


def ask_for_nonsense(server: ServerProcess) -> None:
    for path, status in (("/jobs", 415), ("/v1/audio/transcriptions", 404)):
        data = {"model": "gpt-4o"} if status == 404 else {}
        answer = server.client.post(path, files={"file": ("text.wav", b"I am no sound.")}, data=data)
        assert answer.status_code == status


@pytest.mark.parametrize("ask", [look_at, ask_for_nonsense])
def test_requests_that_are_not_work_do_not_keep_a_model_loaded(
    idle_server: ServerProcess, ask: Callable[[ServerProcess], None]
) -> None:
    idle_server.load()
    idle = idle_server.metric("whisper_model_unloads_total", reason="idle")

    def unloaded() -> bool:
        ask(idle_server)
        return idle_server.metric("whisper_model_unloads_total", reason="idle") > idle

    wait_until(unloaded, "unloaded although it is asked all the time", seconds=20)


def test_a_request_that_is_refused_leaves_an_unloaded_model_as_it_was(server: ServerProcess) -> None:
    server.unload()
    before = server.status()
    ask_for_nonsense(server)
    after = server.wait_for_state("Unloaded")
    assert server.children() == set()
    assert after["depth"] == "cold"
    assert after["idle_seconds"] >= before["idle_seconds"]


def test_a_request_refused_by_its_headers_loads_nothing(server: ServerProcess, clip: Path) -> None:
    server.unload()
    loads = server.metric("whisper_model_loads_total"), server.metric("whisper_model_unloads_total")
    form = {"file": upload(clip)}
    for path in ("/jobs", "/v1/audio/transcriptions"):
        answers = [
            server.client.post(path, files=form, params={"model": "tiny.en"}),
            server.client.post(path, json={}),
            server.client.post(path, files=form, headers={"Idempotency-Key": "x" * 256}),
            server.client.put(path, files=form),
            server.client.post(f"{path}/nowhere", files=form),
        ]
        assert [answer.status_code for answer in answers] == [400, 400, 400, 405, 405 if path == "/jobs" else 404]
    assert server.children() == set()
    assert (server.metric("whisper_model_loads_total"), server.metric("whisper_model_unloads_total")) == loads
