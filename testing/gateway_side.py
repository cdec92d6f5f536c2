"""A gateway's side of an execution: its spool, and what a slot reports about a job."""

from __future__ import annotations

from contextlib import aclosing

from whisper_inference.execution import Finished, Run, RunEvent, SectionDone, Slot
from whisper_inference.jobs.spool import Spool
from whisper_inference.transcripts.transcript import Options, Resume

_GIB = 1 << 30


async def stored(spool: Spool, content: bytes) -> str:
    """Store audio; return its key."""
    async with spool.writer(_GIB) as writer:
        await writer.write(content)
        return (await writer.commit()).key


def order(job: str, audio: str, *, resume: Resume | None = None, options: Options | None = None) -> Run:
    """Return an order."""
    given = options or Options(language="en")
    return Run(job=job, audio=audio, options=given, resume=resume, max_audio_seconds=3600)


async def events_of(slot: Slot, run: Run) -> list[RunEvent]:
    """Run a job to its end."""
    async with aclosing(slot.run(run)) as events:
        return [event async for event in events]


def text_of(events: list[RunEvent]) -> str:
    """Return the text of the finished sections."""
    return "".join(segment.text for event in events if isinstance(event, SectionDone) for segment in event.segments)


def seconds_of(events: list[RunEvent]) -> float:
    """Return the length of the audio; fail unless the job finished."""
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1].seconds
