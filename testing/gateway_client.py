"""What clients of a gateway do in tests."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from testing.audio_files import JFK
from testing.gateway_process import GatewayProcess
from testing.pod_stand_in import PodServer
from testing.server_process import upload

Json = dict[str, Any]


def transcribe(gateway: GatewayProcess, *, key: str = "ana", **fields: str) -> httpx.Response:
    with gateway.client(key) as client:
        return client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "base", **fields})


def submit(gateway: GatewayProcess, *, key: str = "ana", **headers: str) -> Json:
    with gateway.client(key, **headers) as client:
        answer = client.post("/jobs", files={"file": upload(JFK)}, data={"model": "base"})
    assert answer.status_code == 202, answer.text
    return answer.json()


def job(gateway: GatewayProcess, job_id: str, *, key: str = "ana") -> Json:
    with gateway.client(key) as client:
        return client.get(f"/jobs/{job_id}").json()


def wakes(gateway: GatewayProcess, result: str) -> float:
    """Return how many wakes had a result."""
    families = text_string_to_metric_families(httpx.get(f"{gateway.url}/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(
        one.value for one in samples if one.name == "whisper_gateway_wakes_total" and one.labels["result"] == result
    )


def succeeded(gateway: GatewayProcess, job_id: str) -> Json | None:
    seen = job(gateway, job_id)
    return seen if seen["status"] == "succeeded" else None


def hold_jobs(server: PodServer) -> None:
    server.execute.held = True
