"""Requests with real speech to a model's pod or to the gateway, through a forwarded port and with the client key."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from e2e.cluster import Cluster
from testing.audio_files import JFK
from testing.operator_process import eventually
from testing.server_process import upload
from testing.spoken_words import ASK_NOT, normalized

WORDS = ASK_NOT
"""Normalized, as all texts here."""
PORT = 8002
_SECONDS = 60.0
"""Timeout for a queued or running job to make progress."""
_ANSWER_SECONDS = 120.0
"""Timeout for a response, including the wait for the model."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Speech:
    """A client of one server."""

    client: httpx.Client

    def transcribe(self, file: Path = JFK) -> str:
        """Transcribe speech, including any wait for the model, and return its words, normalized."""
        answer = self.send(file)
        assert answer.is_success, answer.text
        return normalized(answer.json()["text"])

    def send(self, file: Path = JFK, *, key: str = "", seconds: float = _ANSWER_SECONDS) -> httpx.Response:
        """Send speech, with an Idempotency-Key if one is given; return the response."""
        headers = {"Idempotency-Key": key} if key else {}
        form, files = {"model": "whisper-1"}, {"file": upload(file)}
        return self.client.post("/v1/audio/transcriptions", files=files, data=form, headers=headers, timeout=seconds)

    def start_job(self, file: Path = JFK) -> str:
        """Submit speech as a job and return its id."""
        answer = self.client.post("/jobs", files={"file": upload(file)})
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return answer.json()["id"]

    def jobs(self) -> list[Json]:
        """Return the client's jobs, the latest first, at most 200."""
        return self.client.get("/jobs", params={"limit": 200}).json()["jobs"]

    def job(self, name: str) -> Json:
        answer = self.client.get(f"/jobs/{name}")
        assert answer.is_success, answer.text
        return answer.json()

    def wait_for_job(self, name: str, *statuses: str) -> Json:
        """Wait until a job has one of these statuses, as long as it makes progress; return the job."""
        seen = self.job(name)
        while seen["status"] not in statuses:
            assert seen["finished_at"] is None, f"expected status {' or '.join(statuses)}: {seen}"
            seen = eventually(partial(self._progressed, seen), f"the job makes progress: {seen}", seconds=_SECONDS)
        return seen

    def _progressed(self, since: Json) -> Json | None:
        job = self.job(since["id"])
        return job if any(job[name] != since[name] for name in ("status", "progress")) else None

    def text_of(self, jobs: Sequence[str]) -> list[str]:
        """Wait for jobs to succeed, and return their words, normalized."""
        return [normalized(self.wait_for_job(job, "succeeded")["text"]) for job in jobs]

    def status(self) -> Json:
        return self.client.get("/model/status").json()

    def metrics(self) -> str:
        return self.client.get("/metrics").text


@contextmanager
def speaking_to(cluster: Cluster, target: str, *, namespace: str, **headers: str) -> Iterator[Speech]:
    """Yield a client of the server behind a pod or a Service, with its namespace's key, until the block ends."""
    given = {"Authorization": f"Bearer {client_key(cluster, namespace)}", **headers}
    with (
        cluster.forwarded(target, PORT, namespace=namespace) as url,
        httpx.Client(base_url=url, headers=given, timeout=_ANSWER_SECONDS, trust_env=False) as client,
    ):
        yield Speech(client)


def client_key(cluster: Cluster, namespace: str) -> str:
    """Return the key for clients of a namespace."""
    secret = cluster.get(f"/api/v1/namespaces/{namespace}/secrets/whisper-operator-keys")
    assert secret is not None, f"no keys in {namespace}"
    return base64.b64decode(secret["data"]["client"]).decode()
