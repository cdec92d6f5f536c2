"""What a job is. No I/O."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from json import dumps
from typing import NamedTuple
from uuid import UUID

from whisper_inference.errors import JobNotFound, Param, ServiceError, error_of
from whisper_inference.transcripts.transcript import Options, Resume, Segment
from whispermodel.key import Key

MAX_ATTEMPTS = 3
"""Times that a job is started before it is given up (docs/api.md, GET /jobs/{id})."""

BACKGROUND_DELAY = timedelta(minutes=5)
"""How much later than a job whose client waits a background job is due (docs/api.md, POST /jobs).

So clients that wait go first, and no background job is overtaken by one that was accepted more than this after it.
"""

LOCAL = Key("", "")
"""The model of a server that serves only one, and needs no WhisperModel."""

LEASE = timedelta(seconds=15)
"""How long an attempt is its owner's without being renewed; `RENEW` apart, two renewals in a row may fail."""

RENEW = timedelta(seconds=5)
"""How often an owner renews its leases."""

MAX_FILENAME = 255
"""Characters; what common file systems take."""


class Status(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing more will happen to the job."""
        return self not in (Status.QUEUED, Status.RUNNING)


class StaleAttempt(Exception):
    """The attempt is no longer the job's current one: it was cancelled, requeued or given to another executor."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A ServiceError that can be stored: its code and parameters."""

    code: str
    params: dict[str, Param] = field(default_factory=dict[str, Param])

    @classmethod
    def of(cls, error: ServiceError) -> Cause:
        """Return what is to be stored of an error."""
        return cls(error.code, dict(error.params))

    def error(self) -> ServiceError:
        """Return the error again, to be raised or put into words."""
        return error_of(self.code, self.params)


@dataclass(frozen=True, slots=True)
class StoredAudio:
    """An object of the spool that a job owns; size in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class SpooledAudio(StoredAudio):
    """Audio that has just been stored whole; sha256 in hexadecimal."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Job:
    """One transcription, from its acceptance on. Times are UTC."""

    id: str
    """A UUID of version 7."""
    options: Options
    """What the client asked for."""
    filename: str
    """Of the upload, cleaned."""
    audio: SpooledAudio
    """Where the audio is stored."""
    principal: str
    """The owner: the name of the key that brought it."""
    created_at: datetime
    """When it was accepted."""
    model: Key = LOCAL
    """The WhisperModel that does it."""
    synchronous: bool = False
    """Whether a client waits for the answer."""
    idempotency_key: str | None = None
    """The client's, to find the job again."""
    audio_seconds: float | None = None
    """The audio's length; known once it is probed or transcribed."""
    status: Status = Status.QUEUED
    """Where it stands."""
    started_at: datetime | None = None
    """When its first attempt started."""
    finished_at: datetime | None = None
    """When it became final."""
    attempts: int = 0
    """Starts so far, the running one included."""
    progress: float = 0.0
    """0 to 1."""
    language: str | None = None
    """As given or detected."""
    error: Cause | None = None
    """Why it failed."""
    waiting_for: Cause | None = None
    """Why a queued job does not start, when that is not the queue itself."""
    start_by: datetime | None = None
    """When the job fails if it has not started; None: it waits as long as it takes, or has started."""

    @property
    def fingerprint(self) -> str:
        """Return what a repeated request shares with the first: the options, the audio's content and the model."""
        # The local model adds nothing: 0.1.0 stored fingerprints without one.
        model = [] if self.model == LOCAL else [str(self.model)]
        canonical = dumps([asdict(self.options), self.audio.sha256, *model], sort_keys=True)
        return sha256(canonical.encode()).hexdigest()

    @property
    def due_at(self) -> datetime:
        """When the job is due: of a model's queued jobs, the one that is due first runs first."""
        return self.created_at if self.synchronous else self.created_at + BACKGROUND_DELAY


@dataclass(frozen=True, slots=True)
class Added:
    """The job is new and stored."""

    job: Job


@dataclass(frozen=True, slots=True)
class Existing:
    """An earlier request with the key, or a lost connection, brought this job; the new audio is to be deleted."""

    job: Job


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt at a job; token: fences its writes; resume: None at the beginning."""

    job: Job
    token: str
    resume: Resume | None


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of audio that is done; resume: where the next one begins. progress: 0 to 1."""

    segments: tuple[Segment, ...]
    resume: Resume
    progress: float

    @property
    def text(self) -> str:
        """Return the segments' texts, as Whisper joins them."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first; next_cursor asks for the following ones, None after the last."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


class Backlog(NamedTuple):
    """The queued jobs of a model: how many, and the seconds of their audio as far as its length is known."""

    jobs: int
    audio_seconds: float


@dataclass(frozen=True, slots=True)
class PendingJobs:
    """The queued jobs of a model."""

    jobs: int
    """How many."""
    stored_bytes: int
    """The size of their audio."""
    oldest: datetime
    """When the first of them was accepted."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What lost its owner while it ran: ids of jobs queued again, and of jobs failed after MAX_ATTEMPTS."""

    requeued: tuple[str, ...]
    failed: tuple[str, ...]


def number_of(cursor: str) -> int:
    """Return the job's number that a page gave as its next_cursor. Raises JobNotFound for what none gave."""
    if not cursor.isdecimal() or len(cursor) > 18:
        raise JobNotFound(job=cursor)
    return int(cursor)


def new_job_id(now: datetime, random_bytes: Callable[[int], bytes]) -> str:
    """Return a UUID of version 7, so that ids sort by time (RFC 9562, section 5.7)."""
    milliseconds = int(now.astimezone(UTC).timestamp() * 1000)
    random = int.from_bytes(random_bytes(10), "big")
    fields = milliseconds << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return str(UUID(int=fields))


def clean_filename(name: str | None) -> str:
    """Return the last part of a client's path, without control characters, of at most MAX_FILENAME characters."""
    # Long names are cut first: a megabyte of slashes must not cost regular-expression time.
    last = re.split(r"[/\\]", (name or "")[-16 * MAX_FILENAME :])[-1]
    visible = "".join(character for character in last if not unicodedata.category(character).startswith("C"))
    return visible.strip()[:MAX_FILENAME].strip(". ") or "audio"
