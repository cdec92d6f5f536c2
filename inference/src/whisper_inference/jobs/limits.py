"""Limits on what clients may ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from whisper_inference.errors import TooManyUploads, TooManyWaiting


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


class WaitingPlace:
    """A place among the waiting clients."""

    def __init__(self, uploads: Counter[str], owner: str | None) -> None:
        self._uploads = uploads
        self._owner = owner
        if owner is not None:
            uploads[owner] += 1

    def note_uploaded(self) -> None:
        """Note that the client has sent its audio, or has gone."""
        if self._owner is not None:
            self._uploads[self._owner] -= 1
            if not self._uploads[self._owner]:
                del self._uploads[self._owner]
            self._owner = None


class WaitingClients:
    """Limits how many clients wait for their answer at the same time.

    Unfinished uploads of one key take at most half of the places: whoever sends slowly must not keep all others out.
    """

    def __init__(self) -> None:
        self._count = 0
        self._uploads: Counter[str] = Counter()

    @contextmanager
    def client(self, limit: int, *, owner: str | None = None, retry_after: float) -> Generator[WaitingPlace]:
        """Count one more client while it waits. owner: its key's name; None without keys.

        Raises TooManyWaiting and TooManyUploads.
        """
        if self._count >= limit:
            raise TooManyWaiting(limit=limit, retry_after=retry_after)
        share = max(1, limit // 2)
        if owner is not None and self._uploads[owner] >= share:
            raise TooManyUploads(limit=share, retry_after=retry_after)
        self._count += 1
        place = WaitingPlace(self._uploads, owner)
        try:
            yield place
        finally:
            place.note_uploaded()
            self._count -= 1
