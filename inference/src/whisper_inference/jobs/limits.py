"""Limits on what clients may ask for. Beyond either shared one, waiting clients or stored bytes, the answer is 429."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from whisper_inference.errors import TooManyStoredBytes, TooManyWaiting


@dataclass(slots=True)
class Limits:
    """What clients may ask for. The limits hold for the next request; a model file may change them at any time."""

    max_waiting: int
    """Clients that wait for their answer at the same time (WHISPER_MAX_WAITING)."""
    max_wait: timedelta
    """How long a client waits for its answer (WHISPER_MAX_WAIT)."""
    max_audio_bytes: int
    """Size of one upload (WHISPER_MAX_AUDIO_BYTES)."""
    max_audio_seconds: float
    """Length of one upload's audio (WHISPER_MAX_AUDIO_SECONDS)."""


class WaitingClients:
    """Limits how many clients wait for their answer at the same time."""

    def __init__(self) -> None:
        self._count = 0

    @contextmanager
    def client(self, limit: int, *, retry_after: float) -> Generator[None]:
        """Count one more client while it waits. Raises TooManyWaiting."""
        if self._count >= limit:
            raise TooManyWaiting(limit=limit, retry_after=retry_after)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


class Quota:
    """Limits the bytes of audio stored for all jobs together, uploads in progress included."""

    def __init__(self, limit_bytes: int, used_bytes: int = 0, *, retry_after: float = 30.0) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = used_bytes
        self._retry_after = retry_after

    def reserve(self, size: int) -> None:
        """Reserve bytes. Raises TooManyStoredBytes, and reserves nothing, when they do not fit."""
        if self.used_bytes + size > self.limit_bytes:
            raise TooManyStoredBytes(limit_bytes=self.limit_bytes, retry_after=self._retry_after)
        self.used_bytes += size

    def release(self, size: int) -> None:
        """Return bytes to the quota."""
        self.used_bytes = max(0, self.used_bytes - size)
