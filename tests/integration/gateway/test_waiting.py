"""Clients that wait for a model at zero: what they hear meanwhile, and how they find their answer again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from testing.audio_files import JFK
from testing.gateway_client import Json, job, transcribe
from testing.gateway_process import GatewayProcess
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.operator_process import eventually
from testing.pod_stand_in import PodServer
from testing.server_process import upload

pytestmark = pytest.mark.usefixtures("operator")


def loads_slowly(server: PodServer) -> None:
    server.load_seconds = 3.0


def jobs_of(gateway: GatewayProcess, key: str = "ana") -> list[Json]:
    with gateway.client(key) as client:
        return client.get("/jobs").json()["jobs"]


def events(lines: Iterator[str]) -> Iterator[Json]:
    """Yield the data of server-sent events."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_stream_begins_at_once_and_tells_the_phases(
    gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet
) -> None:
    kubelet.prepare = loads_slowly
    began = time.monotonic()
    with (
        gateway.client() as client,
        client.stream(
            "POST", "/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "base", "stream": "true"}
        ) as answer,
    ):
        headers_after = time.monotonic() - began
        assert answer.status_code == 200
        assert answer.headers["X-Job-Id"]
        assert answer.headers["Location"] == f"/jobs/{answer.headers['X-Job-Id']}"
        seen = list(events(answer.iter_lines()))
    assert headers_after < time.monotonic() - began - 2
    phases = [event["phase"] for event in seen if event["type"] == "transcript.phase"]
    # The pod may be there before the upload is.
    assert phases[0] in ("waking", "starting")
    assert "starting" in phases
    assert seen[-1]["type"] == "transcript.text.done"


def test_client_that_prefers_not_to_wait_gets_the_job(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    with gateway.client(Prefer="wait=0") as client:
        answer = client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "base"})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.json()["model"] == "base"
    # The pod may be there already.
    assert answer.json()["position"] in (0, None)
    location = answer.headers["Location"]
    with gateway.client() as client:
        eventually(lambda: client.get(location).json()["status"] == "succeeded", "the job is done")
        assert client.get(f"{location}/result?format=text").status_code == 200


def test_retry_after_a_timeout_joins_the_job(gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet) -> None:
    kubelet.prepare = loads_slowly

    def retrying(number: int) -> httpx.Response:
        audio = ("speech.flac", JFK.read_bytes() + bytes([number]), "audio/flac")
        with httpx.Client(base_url=gateway.url, headers={"Authorization": "Bearer ana"}, timeout=1.5) as client:
            for _ in range(10):
                try:
                    return client.post("/v1/audio/transcriptions", files={"file": audio}, data={"model": "base"})
                except httpx.ReadTimeout:
                    pass
        raise AssertionError("no answer in 10 tries")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(retrying, range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    # One transcription for each request, however often it was repeated.
    assert len(jobs_of(gateway)) == 8
    assert len({answer.headers["X-Job-Id"] for answer in answers}) == 8


def test_retry_after_the_gateway_was_killed_joins_the_job(
    gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet
) -> None:
    kubelet.prepare = loads_slowly
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(transcribe, gateway)
        eventually(lambda: jobs_of(gateway), "the job is stored")
        gateway.stop(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            first.result()
    gateway.start()
    assert transcribe(gateway).status_code == 200
    assert len(jobs_of(gateway)) == 1


def test_foreign_job_does_not_exist(gateway: GatewayProcess, at_zero: LiveModel) -> None:
    accepted = jobs_of(gateway)
    assert accepted == []
    answer = transcribe(gateway)
    job_id = answer.headers["X-Job-Id"]
    assert job(gateway, job_id, key="auditor")["id"] == job_id
    assert job(gateway, job_id, key="bea")["code"] == "job-not-found"
    assert jobs_of(gateway, "bea") == []
