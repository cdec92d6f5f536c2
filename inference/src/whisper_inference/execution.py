"""The seam between the job queue and whatever transcribes: a local worker process today, a fleet of pods tomorrow.

What crosses it are messages, so that either side may sit in another process or on another machine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from whisper_inference.errors import Param, ServiceError, error_of
from whisper_inference.transcripts.transcript import Options, Resume, Segment
from whispermodel.key import Key


class Message(msgspec.Struct, frozen=True, tag=True):
    """One message; its class name is its tag."""


class JobInput(Message, frozen=True):
    """What is asked for in one attempt of a job, wherever its audio is."""

    job: str
    """The job's id, which every message about it repeats."""
    options: Options
    """What the client asked for."""
    resume: Resume | None
    """Where an earlier attempt left off; None: at the beginning."""
    max_audio_seconds: float
    """Longer audio is refused (WHISPER_MAX_AUDIO_SECONDS)."""


class Run(JobInput, frozen=True):
    """Transcribe the audio of one job."""

    audio: str
    """The key of the audio in the spool; the executor gets the bytes from there."""


class Progress(Message, frozen=True):
    """How many seconds of the audio are done."""

    job: str
    seconds: float


class SegmentDone(Message, frozen=True):
    """A segment of an unfinished section: for live display, not for storage."""

    job: str
    segment: Segment


class SectionDone(Message, frozen=True):
    """A section is finished."""

    job: str
    """The job's id."""
    segments: tuple[Segment, ...]
    """All segments of the section."""
    resume: Resume
    """Where a later attempt starts."""
    seconds: float
    """Seconds of audio done so far, earlier sections included."""


class Finished(Message, frozen=True):
    """All of the audio is transcribed; seconds: its length."""

    job: str
    seconds: float


class Stopped(Message, frozen=True):
    """The job was cancelled and the executor is free."""

    job: str


class Refused(Message, frozen=True):
    """The job failed; code and params as in errors.py. A worker also sends it, without a job, when a load fails."""

    job: str
    code: str
    params: dict[str, Param]
    retry_after: float | None = None
    """Seconds until it may work; None: unknown."""

    @classmethod
    def of(cls, error: ServiceError, *, job: str = "") -> Refused:
        """Return the message about an error."""
        return cls(job, error.code, dict(error.params), error.retry_after)

    def error(self) -> ServiceError:
        """Return the error again, to be raised."""
        error = error_of(self.code, self.params)
        error.retry_after = self.retry_after
        return error


RunEvent = Progress | SegmentDone | SectionDone | Finished | Stopped
"""What a slot yields about a job. A Refused becomes the ServiceError that it describes."""


class Granted(Message, frozen=True):
    """The slot is the caller's, with the model loaded: the server waits for the order and its audio."""

    load_seconds: float | None = None
    """How long the load took that the caller waited for; None: it waited for none."""
    phases: dict[str, float] = {}
    """The parts of load_seconds, by name."""


class Heartbeat(Message, frozen=True):
    """Sent every HEARTBEAT_SECONDS from beginning to end, so that silence means that the server is gone."""


class Lost(Message, frozen=True):
    """The executor ended before the job did: an ExecutorLost."""

    cause: str
    detail: str


ExecuteMessage = Granted | Heartbeat | RunEvent | Refused | Lost
"""What a server sends while it runs a job for a gateway (POST /execute), one JSON object a line."""

EXECUTE_MEDIA_TYPE = "application/vnd.whisper-execute"
"""Of an order: its length (4 bytes, big-endian), a JobInput as JSON, and the audio's bytes up to the body's end."""

HEARTBEAT_SECONDS = 1.0

MAX_ORDER_BYTES = 2**20
"""Longest JobInput; the longest parts are the client's prompt and the text before the resumed section."""


class ExecutorLost(Exception):
    """The executor ended before the job did.

    cause: crash, oom, hang, forced, stopped, cancelled, store or zygote; of a pod also unreachable, leaving, or upload
    (the audio came too slowly). detail: for people.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


class Slot(Protocol):
    """An executor's capacity for one job, held by that job."""

    def run(self, order: Run) -> AsyncGenerator[RunEvent]:
        """Yield what happens to the job; the last event is Finished or Stopped.

        Closing the generator early cancels the job. Raises ServiceError when the job failed, ExecutorLost when the
        executor ended, and what reading the audio raises.
        """
        ...

    async def cancel(self, job: str) -> None:
        """Request that the job stops; `run` then yields Stopped."""
        ...

    def kill(self, cause: str, detail: str) -> None:
        """End the executor; `run` then raises ExecutorLost with this cause."""
        ...


class Executor(Protocol):
    """Whatever can transcribe."""

    def slot(self, model: Key) -> AbstractAsyncContextManager[Slot]:
        """Lend capacity for one job of a model, with the model loaded; waits until there is some.

        Raises ShuttingDown, and ExecutorLost when the executor ended before the job started.
        """
        ...
