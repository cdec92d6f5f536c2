"""Requests with real speech to a model's pod, through a forwarded port and with the client key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from testing.audio_files import JFK
from testing.operator_process import eventually
from testing.server_process import upload
from testing.spoken_words import ASK_NOT, normalized

WORDS = ASK_NOT
"""Normalized, as all texts here."""
_SECONDS = 60.0
"""Timeout for a queued or running job to make progress."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Speech:
    """A client of one server."""

    client: httpx.Client

    def transcribe(self, file: Path = JFK) -> str:
        """Transcribe speech, including any wait for the model, and return its words, normalized."""
        form = {"model": "whisper-1"}
        answer = self.client.post("/v1/audio/transcriptions", files={"file": upload(file)}, data=form)
        assert answer.is_success, answer.text
        return normalized(answer.json()["text"])

    def start_job(self, file: Path = JFK) -> str:
        """Submit speech as a job and return its id."""
        answer = self.client.post("/jobs", files={"file": upload(file)})
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return answer.json()["id"]

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
