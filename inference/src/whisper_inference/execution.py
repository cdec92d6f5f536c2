"""The seam between the job queue and whatever transcribes: a local worker process today, a fleet of pods tomorrow.

What crosses it are messages, so that either side may sit in another process or on another machine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from whisper_inference.transcripts.transcript import Options, Resume, Segment

Param = str | int | float


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


RunEvent = Progress | SegmentDone | SectionDone | Finished | Stopped
"""What a slot yields about a job. A Refused becomes the ServiceError that it describes."""


class ExecutorLost(Exception):
    """The executor ended before the job did.

    cause: crash, oom, hang, forced, stopped, cancelled, store or zygote. detail: for people.
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

    def slot(self) -> AbstractAsyncContextManager[Slot]:
        """Lend capacity for one job, with the model loaded; waits until there is some.

        Raises ShuttingDown, and ExecutorLost when the executor ended before the job started.
        """
        ...
