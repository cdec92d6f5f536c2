"""Jobs as clients bring them."""

from __future__ import annotations

from datetime import UTC, datetime

from whisper_inference.jobs.job import Job, SpooledAudio
from whisper_inference.transcripts.transcript import Options

START = datetime(2026, 3, 1, 8, 0, 0, 123456, tzinfo=UTC)


def job(name: str, *, key: str | None = None, sha256: str = "00", options: Options | None = None) -> Job:
    """Return a queued job that nobody waits for."""
    audio = SpooledAudio(key=f"audio/{name}", size=1000, sha256=sha256)
    return Job(
        id=name,
        options=options or Options(),
        filename=f"{name}.flac",
        audio=audio,
        principal="ana",
        created_at=START,
        idempotency_key=key,
    )
