"""The stand-in pod's POST /execute: one slot, and jobs of a few sections whose text is named after job and section.

tests/integration/server/test_slot_contract.py holds it to what a real server does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from whisper_inference.execution import (
    EXECUTE_MEDIA_TYPE,
    HEARTBEAT_SECONDS,
    ExecuteMessage,
    Finished,
    Granted,
    Heartbeat,
    JobInput,
    Lost,
    Progress,
    Refused,
    RunEvent,
    SectionDone,
    SegmentDone,
    Stopped,
)
from whisper_inference.transcripts.transcript import Resume, Segment

SECTION_SECONDS = 10.0
SECTION_SAMPLES = 160_000
_AUDIO = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"audio")
"""What the content of audio begins with, here."""
_POLL_SECONDS = 0.01

Begin = Callable[[], Awaitable[Refused | None]]


def section_messages(job: str, number: int, *, segment_id: int) -> Iterator[RunEvent]:
    """Yield what an executor reports about one section of 10 s with one segment."""
    began = number * SECTION_SECONDS
    segment = Segment(segment_id, 0, began, began + 9, f" {job}{number}", (1,), 0.0, -0.1, 1.0, 0.0)
    resume = Resume((number + 1) * SECTION_SAMPLES, "en", segment.text, segment_id + 1)
    yield Progress(job=job, seconds=began + 5)
    yield SegmentDone(job=job, segment=segment)
    yield SectionDone(job=job, segments=(segment,), resume=resume, seconds=began + SECTION_SECONDS)


@dataclass
class Execution:
    """One caller that asked for a slot."""

    response: web.StreamResponse
    granted: bool = False
    cancelled: bool = False
    order: JobInput | None = None
    audio: bytes = b""


@dataclass
class ExecuteStandIn:
    """Lends one slot at a time, first come first served. Its fields may be set while it runs."""

    sections: int = 3
    """How many sections each job has."""
    section_seconds: float = 0.0
    """How long each takes."""
    held: bool = False
    """Whether jobs stop before their last section until this is False again."""
    grant_seconds: float = 0.0
    """How long a caller waits for the slot once it is free."""
    refuses: Refused | None = None
    """What a caller gets instead of the slot: a load that fails, or a server that shuts down."""
    fails: Refused | None = None
    """What every job fails with once its audio is here."""
    refuses_with: tuple[int, str] | None = None
    """Status and code of the problem that requests are refused with."""
    ends_after: int | None = None
    """After how many sections of its own a job ends as `ends_by` says; None: it finishes."""
    ends_by: Lost | str = "hang-up"
    """A Lost is reported; hang-up: the connection is aborted; silence: nothing is sent any more."""
    paused: bool = False
    """Whether nothing is sent until this is False again."""
    executions: list[Execution] = field(default_factory=list)
    """All callers so far."""
    _free: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def orders(self) -> list[JobInput]:
        """The orders that came, oldest first."""
        return [execution.order for execution in self.executions if execution.order]

    async def handle(self, request: web.Request, *, begin: Begin, finish: Callable[[], None]) -> web.StreamResponse:
        """Serve POST /execute. begin: loads the model for work, and returns why that failed; finish: ends the work."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        execution = Execution(response)
        self.executions.append(execution)
        await response.prepare(request)
        async with _heartbeats(self, execution):
            await self.send(execution, await self._outcome(request, execution, begin=begin, finish=finish))
        return response

    def cancel(self, job: str) -> bool:
        """Cancel a job; return whether there is one."""
        found = [one for one in self.executions if one.order and one.order.job == job]
        for execution in found:
            execution.cancelled = True
        return bool(found)

    async def send(self, execution: Execution, message: ExecuteMessage) -> None:
        """Send a message to a caller."""
        while self.paused:  # noqa: ASYNC110 -- another thread changes it
            await asyncio.sleep(_POLL_SECONDS)
        await execution.response.write(msgspec.json.encode(message) + b"\n")

    async def _outcome(
        self, request: web.Request, execution: Execution, *, begin: Begin, finish: Callable[[], None]
    ) -> ExecuteMessage:
        async with self._free:
            await asyncio.sleep(self.grant_seconds)
            if refused := self.refuses or await begin():
                return refused
            try:
                return await self._lent(request, execution)
            finally:
                finish()

    async def _lent(self, request: web.Request, execution: Execution) -> ExecuteMessage:
        execution.granted = True
        await self.send(execution, Granted())
        length = int.from_bytes(await request.content.readexactly(4))
        order = msgspec.json.decode(await request.content.readexactly(length), type=JobInput)
        execution.order = order
        execution.audio = await request.content.read()
        if self.fails:
            return msgspec.structs.replace(self.fails, job=order.job)
        if not execution.audio.startswith(_AUDIO):
            return Refused(order.job, "not-audio", {"reason": "not recognised by the stand-in"})
        return await self._run(request, execution, order)

    async def _run(self, request: web.Request, execution: Execution, order: JobInput) -> ExecuteMessage:
        resume = order.resume or Resume()
        first = resume.next_start_sample // SECTION_SAMPLES
        for number in range(first, self.sections):
            if number - first == self.ends_after:
                return await self._end_early(request)
            await self._work(execution, last=number == self.sections - 1)
            if execution.cancelled:
                return Stopped(job=order.job)
            for message in section_messages(order.job, number, segment_id=resume.next_segment_id + number - first):
                await self.send(execution, message)
        return Finished(job=order.job, seconds=self.sections * SECTION_SECONDS)

    async def _work(self, execution: Execution, *, last: bool) -> None:
        until = asyncio.get_running_loop().time() + self.section_seconds
        while not execution.cancelled and (asyncio.get_running_loop().time() < until or (last and self.held)):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)

    async def _end_early(self, request: web.Request) -> Lost:
        if isinstance(self.ends_by, Lost):
            return self.ends_by
        if self.ends_by == "hang-up":
            assert request.transport is not None
            request.transport.abort()
        # Cancelled when the client has gone.
        await asyncio.sleep(3600)
        raise AssertionError("the client did not leave")


@asynccontextmanager
async def _heartbeats(stand_in: ExecuteStandIn, execution: Execution) -> AsyncIterator[None]:
    async def beat() -> None:
        while stand_in.ends_after is None or stand_in.ends_by != "silence" or not execution.order:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await stand_in.send(execution, Heartbeat())

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


def has_media_type(request: web.Request) -> bool:
    """Return whether a request says that it is an order."""
    return request.headers.get("Content-Type") == EXECUTE_MEDIA_TYPE
