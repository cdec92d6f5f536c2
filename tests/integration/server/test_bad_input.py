"""Bad input of every kind: a clear error each, and the server works on."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from _pytest.mark import ParameterSet

from testing.audio_files import JFK, RATE, write_wav
from testing.server_process import ServerProcess, StartServer, wait_until
from whisper_inference.jobs.audio_store import PART_BYTES


def absurd_wav() -> bytes:
    """A header that claims 4 GB, which is days at this rate, and a second of sound."""
    form = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 8_000, 1, 8)
    return b"RIFF" + struct.pack("<I", 2**32 - 1) + form + b"data" + struct.pack("<I", 2**32 - 37) + b"\x80" * 8_000


def silent_wav(folder: Path) -> bytes:
    return write_wav(folder / "silence.wav", np.zeros(RATE, np.int16)).read_bytes()


@dataclass(frozen=True)
class Bad:
    """What is sent, and the status and code that answer. data: the form's other fields."""

    status: int
    code: str
    content: bytes | None = JFK.read_bytes()
    filename: str = "speech.flac"
    data: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)


NOISE = random.Random(0).randbytes(1_000_000)
BAD_AUDIO = {
    "empty file": Bad(415, "not-audio", b"", "empty.wav"),
    "random bytes named mp3": Bad(415, "not-audio", NOISE, "noise.mp3"),
    "text named wav": Bad(415, "not-audio", b"I am no sound. " * 1000, "text.wav"),
    "flac cut off": Bad(422, "audio-damaged", JFK.read_bytes()[:100_000], "cut.flac"),
}
BAD_FORMS = {
    "no file": Bad(400, "malformed-request", None),
    "unknown field": Bad(400, "malformed-request", data={"langauge": "en"}),
    "unknown query parameter": Bad(400, "malformed-request", query={"wait": "true"}),
    "temperature is no number": Bad(400, "malformed-request", data={"temperature": "warm"}),
    "temperature out of range": Bad(400, "malformed-request", data={"temperature": "7"}),
}
JOB_FORMS = {
    "unknown language": Bad(400, "malformed-request", data={"language_in": "klingon"}),
    "unknown task": Bad(400, "malformed-request", data={"task": "summarise"}),
    "translation by an English-only model": Bad(400, "malformed-request", data={"task": "translate"}),
    "word_timestamps is no boolean": Bad(400, "malformed-request", data={"word_timestamps": "perhaps"}),
}
OPENAI_FORMS = {
    "unknown language": Bad(400, "malformed-request", data={"language": "klingon"}),
    "unknown format": Bad(400, "malformed-request", data={"response_format": "pdf"}),
    "unknown model": Bad(404, "model-not-found", data={"model": "gpt-4o"}),
    "unknown granularity": Bad(400, "malformed-request", data={"timestamp_granularities[]": "letter"}),
}


@pytest.fixture(scope="module")
def server(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.fixture(autouse=True)
def works_on(server: ServerProcess) -> Iterator[None]:
    """Whatever was sent, the same process answers afterwards, and nothing of it is left to do."""
    yield
    assert server.client.get("/health/ready").status_code == 200
    wait_until(lambda: server.metric("whisper_jobs", status="queued") == 0, "an empty queue")


def cases(table: dict[str, Bad]) -> list[ParameterSet]:
    return [pytest.param(bad, id=name) for name, bad in table.items()]


def send(server: ServerProcess, path: str, bad: Bad) -> httpx.Response:
    if bad.content is None:
        body = b'--x\r\nContent-Disposition: form-data; name="temperature"\r\n\r\n0\r\n--x--\r\n'
        return server.client.post(path, content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    files = {"file": (bad.filename, bad.content)}
    return server.client.post(path, files=files, data=bad.data, params=bad.query)


@pytest.mark.parametrize("bad", cases(BAD_AUDIO | BAD_FORMS | JOB_FORMS))
def test_a_job_is_refused_with_a_problem(server: ServerProcess, bad: Bad) -> None:
    jobs = server.metric("whisper_jobs")
    answer = send(server, "/jobs", bad)
    assert (answer.status_code, answer.json().get("code")) == (bad.status, bad.code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == bad.status
    assert answer.json()["detail"]
    assert server.metric("whisper_jobs") == jobs


@pytest.mark.parametrize("bad", cases(BAD_AUDIO | BAD_FORMS | OPENAI_FORMS))
def test_a_transcription_is_refused_in_openais_shape(server: ServerProcess, bad: Bad) -> None:
    answer = send(server, "/v1/audio/transcriptions", bad)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (bad.status, bad.code)
    assert error["message"]


def test_a_header_that_claims_days_is_not_believed(server: ServerProcess) -> None:
    answer = send(server, "/v1/audio/transcriptions", Bad(0, "", absurd_wav(), "days.wav"))
    assert answer.status_code in (200, 422)
    assert answer.json().keys() & {"text", "error"}


def test_audio_that_is_too_long_is_refused_with_the_limit(start_server: StartServer) -> None:
    server = start_server(WHISPER_MAX_AUDIO_SECONDS="10")
    answer = send(server, "/jobs", Bad(422, "audio-too-long"))
    assert (answer.status_code, answer.json()["code"]) == (422, "audio-too-long")
    assert answer.json()["limit_seconds"] == 10


@pytest.mark.parametrize("filename", ["../../etc/passwd", "a" * 10_000 + ".wav", "..", "\0x", "Gespräch 你好.wav"])
def test_a_filename_is_only_a_name(server: ServerProcess, clip: Path, filename: str) -> None:
    answer = server.client.post("/jobs", files={"file": (filename, clip.read_bytes())})
    assert answer.status_code == 202
    shown = answer.json()["filename"]
    assert "/" not in shown
    assert len(shown) <= 255
    assert server.client.delete(f"/jobs/{answer.json()['id']}").is_success


def test_a_body_that_is_not_a_form_is_refused(server: ServerProcess) -> None:
    answer = server.client.post("/jobs", json={"file": "speech.flac"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")


def test_a_body_that_ends_early_is_refused(server: ServerProcess) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = server.client.post("/jobs", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")


def test_nothing_stays_of_an_upload_whose_client_hangs_up(server: ServerProcess) -> None:
    jobs, refused = server.metric("whisper_jobs"), server.metric("whisper_rejected_total", reason="malformed-request")
    wait_until(lambda: not stored_files(server), "nothing is left of other jobs")
    with server.connect() as connection:
        connection.sendall(
            # More than a part: less is not written yet.
            b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
            % (3 * PART_BYTES)
            + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + b"R" * (2 * PART_BYTES)
        )
        wait_until(lambda: stored_files(server), "the upload has begun", seconds=10)
    wait_until(lambda: not stored_files(server), "nothing is left of it", seconds=10)
    assert server.metric("whisper_jobs") == jobs
    wait_until(
        lambda: server.metric("whisper_rejected_total", reason="malformed-request") > refused,
        "it is counted",
        seconds=10,
    )
    assert server.metric("whisper_rejected_total", reason="internal") == 0
    assert "Traceback" not in server.log.read_text()


def stored_files(server: ServerProcess) -> list[Path]:
    return [path for path in (server.data_dir / "audio").rglob("*") if path.is_file()]


@pytest.mark.parametrize("path", ["/model/load", "/model/unload"])
def test_a_misspelt_query_of_a_model_command_is_refused(server: ServerProcess, path: str) -> None:
    answer = server.client.post(path, params={"forced": "true"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")


@pytest.mark.parametrize("query", [{"depth": "deep"}, {"timeout": "-1"}, {"force": "perhaps"}])
def test_an_unload_with_an_impossible_parameter_is_refused(server: ServerProcess, query: dict[str, str]) -> None:
    answer = server.unload(**query)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")


def test_a_query_parameter_that_comes_twice_is_refused(server: ServerProcess) -> None:
    answer = server.client.post("/model/unload?wait=true&wait=false")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert "'wait' was given more than once" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere"])
def test_an_unknown_path_is_not_found(server: ServerProcess, path: str) -> None:
    answer = server.client.get(path)
    assert answer.status_code == 404
    assert ("error" in answer.json()) == path.startswith("/v1")


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
def test_a_second_of_silence_is_no_text(start_server: StartServer, tmp_path: Path, engine: str) -> None:
    server = start_server(engine)
    answer = server.client.post("/v1/audio/transcriptions", files={"file": ("silence.wav", silent_wav(tmp_path))})
    assert answer.status_code == 200
    assert json.loads(answer.text) == {"text": ""}
