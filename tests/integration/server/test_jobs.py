"""Jobs over HTTP: idempotency, events, listing, cancelling, results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pysubs2
import pytest

from testing.server_process import Json, Launch, ServerProcess, upload


@pytest.fixture(scope="module")
def server(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


def events_of(server: ServerProcess, job_id: str) -> list[tuple[str, Json]]:
    """Follow a job to the end of its stream; return the events' names and data."""
    with server.client.stream("GET", f"/jobs/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.partition(": ") for line in answer.iter_lines() if line and not line.startswith(":")]
    names = [value for name, _, value in lines if name == "event"]
    data = [json.loads(value) for name, _, value in lines if name == "data"]
    return list(zip(names, data, strict=True))


def text_of(server: ServerProcess, job_id: str) -> str:
    return str(server.result(job_id).json()["text"]).strip()


@pytest.fixture(scope="module")
def finished(server: ServerProcess, jfk: Path) -> str:
    job = server.submit(jfk, word_timestamps="true")
    assert server.wait_for_job(job["id"])["status"] == "succeeded"
    return job["id"]


def test_an_accepted_job_has_a_location(server: ServerProcess, clip: Path) -> None:
    answer = server.client.post("/jobs", files={"file": upload(clip)})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    assert answer.json()["status"] == "queued"
    assert answer.json()["audio_seconds"] == pytest.approx(2.3, abs=0.01)
    server.wait_for_job(answer.json()["id"])


def test_the_same_key_twice_is_one_job(server: ServerProcess, clip: Path) -> None:
    first, again = (server.submit(clip, headers={"Idempotency-Key": "twice"}) for _ in range(2))
    assert first["id"] == again["id"]


def test_the_same_key_twenty_times_at_once_is_one_job(server: ServerProcess, clip: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        jobs = list(pool.map(lambda _: server.submit(clip, headers={"Idempotency-Key": "at once"}), range(20)))
    assert len({job["id"] for job in jobs}) == 1
    server.wait_for_job(jobs[0]["id"])
    assert len(list((server.data_dir / "audio").rglob("*.part"))) == 0


def test_two_keys_are_refused(server: ServerProcess, clip: Path) -> None:
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "other")]
    answer = server.client.post("/jobs", files={"file": upload(clip)}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert "more than one Idempotency-Key" in answer.json()["detail"]


@pytest.mark.parametrize(("key", "wrong"), [("", "is empty"), ("x" * 256, "longer than 255 bytes")])
def test_an_empty_or_overlong_key_is_refused(server: ServerProcess, clip: Path, key: str, wrong: str) -> None:
    answer = server.client.post("/jobs", files={"file": upload(clip)}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert wrong in answer.json()["detail"]


def test_the_same_key_with_other_audio_is_a_conflict(server: ServerProcess, clip: Path, other_clip: Path) -> None:
    first = server.submit(clip, headers={"Idempotency-Key": "conflict"})
    answer = server.client.post("/jobs", files={"file": upload(other_clip)}, headers={"Idempotency-Key": "conflict"})
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "idempotency-conflict"
    assert first["id"] in answer.json()["detail"]


@pytest.fixture(scope="module")
def server_with_keys(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("alice", "bob")}
    keys.write_text("".join(f"- {{name: {name}, sha256: {digests[name]}, scopes: [use]}}\n" for name in digests))
    with launch(WHISPER_API_KEYS_FILE=str(keys)) as server:
        yield server


def test_the_same_key_of_two_principals_is_two_jobs(server_with_keys: ServerProcess, clip: Path) -> None:
    def submit(name: str) -> str:
        headers = {"Idempotency-Key": "same", "Authorization": f"Bearer {name}"}
        return str(server_with_keys.submit(clip, headers=headers)["id"])

    assert submit("alice") != submit("bob")


def test_events_follow_the_job_from_its_start_to_its_end(server: ServerProcess, clip: Path, jfk: Path) -> None:
    server.submit(clip)
    job = server.submit(jfk)["id"]
    events = events_of(server, job)
    names = [name for name, _ in events]
    statuses = [data["status"] for name, data in events if name == "status"]
    assert names[0] == "status"
    assert statuses == ["queued", "running"]
    assert names.index("segment") < names.index("text") < names.index("done") == len(names) - 1
    assert events[-1][1] == {"status": "succeeded"}
    segments = [data for name, data in events if name == "segment"]
    assert [segment["id"] for segment in segments] == list(range(len(segments)))
    progress = [data["progress"] for name, data in events if name == "progress"]
    assert progress == sorted(progress)
    assert "".join(segment["text"] for segment in segments).strip() == text_of(server, job)


def test_events_of_a_finished_job_replay_its_text_and_end(server: ServerProcess, finished: str) -> None:
    events = events_of(server, finished)
    assert events[0] == ("status", {"status": "succeeded"})
    assert events[-1] == ("done", {"status": "succeeded"})
    heard = "".join(data["text"] for name, data in events if name == "segment")
    assert heard.strip() == text_of(server, finished)


def test_all_jobs_are_listed_page_by_page_newest_first(server: ServerProcess, finished: str) -> None:
    def pages() -> Iterator[Json]:
        cursor = None
        while True:
            page = server.client.get("/jobs", params={"limit": "2"} | ({"cursor": cursor} if cursor else {})).json()
            yield from page["jobs"]
            if (cursor := page["next_cursor"]) is None:
                return

    ids = [job["id"] for job in pages()]
    assert finished in ids
    assert len(ids) == server.metric("whisper_jobs")
    assert ids == sorted(set(ids), reverse=True)


def test_jobs_are_listed_by_status(server: ServerProcess, finished: str) -> None:
    jobs = server.client.get("/jobs", params={"status": "succeeded", "limit": "500"}).json()["jobs"]
    assert finished in {job["id"] for job in jobs}
    assert {job["status"] for job in jobs} == {"succeeded"}


def test_a_running_and_a_queued_job_can_be_cancelled(server: ServerProcess, long_clip: Path) -> None:
    running, queued = (server.submit(long_clip)["id"] for _ in range(2))
    server.wait_for_job(running, "running")
    for job_id in (queued, running):
        assert server.client.delete(f"/jobs/{job_id}").json()["status"] == "cancelled"
    for job_id in (queued, running):
        assert server.job(job_id)["status"] == "cancelled"
        assert server.result(job_id).status_code == 409


def test_cancelling_a_finished_job_changes_nothing(server: ServerProcess, finished: str) -> None:
    assert server.client.delete(f"/jobs/{finished}").json()["status"] == "succeeded"
    assert server.result(finished).status_code == 200


def test_a_result_is_refused_until_it_is_ready(server: ServerProcess, long_clip: Path) -> None:
    job = server.submit(long_clip)["id"]
    answer = server.result(job)
    assert (answer.status_code, answer.json()["code"]) == (409, "result-not-ready")
    server.client.delete(f"/jobs/{job}")


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_parse(server: ServerProcess, finished: str, kind: str) -> None:
    answer = server.result(finished, kind)
    subtitles = pysubs2.SSAFile.from_string(answer.text, format_=kind)
    text = " ".join(line.plaintext for line in subtitles)
    assert "fellow Americans" in text
    assert all(0 <= line.start < line.end <= 12_000 for line in subtitles)


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("json", "application/json"), ("verbose_json", "application/json"), ("text", "text/plain")],
)
def test_results_come_in_every_format(server: ServerProcess, finished: str, kind: str, media_type: str) -> None:
    answer = server.result(finished, kind)
    assert answer.headers["content-type"].startswith(media_type)
    assert "fellow Americans" in answer.text


def test_a_tsv_result_has_milliseconds_and_text(server: ServerProcess, finished: str) -> None:
    header, first, *_ = server.result(finished, "tsv").text.splitlines()
    assert header == "start\tend\ttext"
    start, end, text = first.split("\t")
    assert int(start) < int(end)
    assert "Americans" in text


def test_a_verbose_result_has_the_words_that_were_asked_for(server: ServerProcess, finished: str) -> None:
    words = server.result(finished, "verbose_json").json()["words"]
    assert {"word", "start", "end"} <= words[0].keys()
    assert len(words) == pytest.approx(22, abs=2)


def test_an_unknown_job_is_not_found(server: ServerProcess) -> None:
    for path in ("/jobs/unknown", "/jobs/unknown/result", "/jobs/unknown/events"):
        answer = server.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "job-not-found")
