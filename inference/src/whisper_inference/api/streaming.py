"""Streams a transcription: OpenAI's transcript.text.delta and transcript.text.done as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

from whisper_inference.api.dependencies import Services
from whisper_inference.api.intake import Accepted
from whisper_inference.api.problem import openai_error_of
from whisper_inference.api.timing import job_headers, timing_headers
from whisper_inference.api.waiting import abandon, raise_load_failure, wait_for_answer
from whisper_inference.errors import ServiceError, WaitedTooLong
from whisper_inference.jobs.events import Event, Missed, Phase, PhaseChanged, SegmentAdded, TextAdded, phase_of
from whisper_inference.jobs.job import Status
from whisper_inference.jobs.service import JobService
from whisper_inference.transcripts.transcript import Segment

_SEND_SECONDS = 60
PING_SECONDS = 10
"""Between two comments in a silent stream; proxies cut connections after 60 s of silence, some after 30 s."""
_PHASE = "phase"


async def streamed(request: Request, services: Services, accepted: Accepted) -> Streamed:
    """Return the response once its first event is there: a failure before it is a status, not an event.

    If a pod has to be woken first, the headers are sent at once, so that no proxy takes the silence for an end: then
    every failure is an event. Raises what `wait_for_answer` raises, and the job's own error.
    """
    events = _events(services, accepted)
    if accepted.found is not None and accepted.queue.in_pods:
        if accepted.gone is not None:
            accepted.gone.cancel()  # The response listens itself.
        began = with_deadline(events, accepted)
        headers = {**job_headers(accepted), "X-Cold-Start": "true"}
        return Streamed(_with_errors(request, began), headers=headers, services=services, accepted=accepted)
    first = await wait_for_answer(request, services, accepted, anext(events))

    async def all_events() -> AsyncGenerator[ServerSentEvent]:
        yield first
        async with aclosing(events):
            async for event in events:
                yield event

    headers = await timing_headers(services, accepted)
    return Streamed(_with_errors(request, all_events()), headers=headers, services=services, accepted=accepted)


async def with_deadline(events: AsyncGenerator[ServerSentEvent], accepted: Accepted) -> AsyncGenerator[ServerSentEvent]:
    """Yield the events; raise WaitedTooLong when there is no text within WHISPER_MAX_WAIT."""
    limit = accepted.queue.limits.max_wait.total_seconds()
    deadline: float | None = asyncio.get_running_loop().time() + limit
    async with aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events, None)
            except TimeoutError:
                raise WaitedTooLong(job=accepted.job.id, seconds=limit) from None
            if event is None:
                return
            deadline = deadline if event.event == _PHASE else None
            yield event


async def _with_errors(request: Request, events: AsyncGenerator[ServerSentEvent]) -> AsyncGenerator[ServerSentEvent]:
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except ServiceError as error:
        body = openai_error_of(error, request.headers.get("accept-language"))
        yield ServerSentEvent(json.dumps(body, ensure_ascii=False), event="error")


class Streamed(EventSourceResponse):
    """A response whose job is abandoned when the client hangs up."""

    def __init__(
        self,
        events: AsyncGenerator[ServerSentEvent],
        *,
        headers: dict[str, str],
        services: Services,
        accepted: Accepted,
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            events,
            headers=headers,
            ping=PING_SECONDS,
            send_timeout=_SEND_SECONDS,
            client_close_handler_callable=self._note_hang_up,
        )
        self._services = services
        self._accepted = accepted
        self._held = ExitStack()
        self._hung_up = False

    def hold(self, held: ExitStack) -> None:
        """Close this when the stream has ended."""
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self._held:
            try:
                with self._services.jobs.client_of(self._accepted.job.id):
                    await super().__call__(scope, receive, send)
            except SendTimeoutError:
                self._hung_up = True
                raise
            finally:
                # A stopping server ends the stream itself: then the client has not hung up, and may retry.
                if self._hung_up:
                    await abandon(self._services.jobs, self._accepted)

    async def _note_hang_up(self, _message: Message) -> None:
        self._hung_up = True


async def _events(services: Services, accepted: Accepted) -> AsyncGenerator[ServerSentEvent]:
    jobs, job_id = services.jobs, accepted.job.id
    with jobs.follow(accepted.job) as subscription:
        sent = _SentSegments(jobs, job_id)
        job = await jobs.get(job_id)
        for segment in await sent.stored():
            yield _delta(segment)
        tells_phases = accepted.found is not None and accepted.queue.in_pods
        if tells_phases and job.status is Status.QUEUED:
            yield _phase(phase_of(accepted.queue.model.facts().state))
        if not job.status.final:
            async for event in subscription:
                await raise_load_failure(services, accepted, event)
                if tells_phases and isinstance(event, PhaseChanged):
                    yield _phase(event.phase)
                for segment in await sent.unsent_after(event):
                    yield _delta(segment)
    transcript = await jobs.transcript(job_id)
    for segment in sent.following(transcript.segments):
        yield _delta(segment)
    usage = {"type": "duration", "seconds": transcript.duration}
    yield _sse({"type": "transcript.text.done", "text": transcript.text.strip(), "usage": usage})


@dataclass(slots=True)
class _SentSegments:
    """Which segments a stream has sent: each once, in order and without a gap, so that the deltas add up to the text.

    After a gap it sends nothing until the store has what is missing, which is when the section is finished.
    """

    jobs: JobService
    """Where stored segments are read."""
    job_id: str
    """The job that the stream follows."""
    count: int = 0
    """How many segments were sent."""
    behind: bool = False
    """Whether there is a gap."""

    async def unsent_after(self, event: Event) -> list[Segment]:
        """Return the segments to send after an event."""
        match event:
            case SegmentAdded(segment=segment):
                self.behind = self.behind or segment.id > self.count
                return [] if self.behind else self.following([segment])
            case TextAdded() if self.behind:
                return await self.stored()
            case Missed():
                return await self.stored()
            case _:
                return []

    async def stored(self) -> list[Segment]:
        """Return what is stored and was not sent."""
        self.behind = False
        return self.following(await self.jobs.segments(self.job_id))

    def following(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return those that were not sent, and count them as sent."""
        new = [segment for segment in segments if segment.id >= self.count]
        self.count += len(new)
        return new


def _phase(phase: Phase) -> ServerSentEvent:
    # Not one of OpenAI's events: its clients pass it on, and programs that look for deltas skip it.
    return ServerSentEvent(json.dumps({"type": "transcript.phase", "phase": phase}), event=_PHASE)


def _delta(segment: Segment) -> ServerSentEvent:
    # The deltas add up to the text, which starts without Whisper's leading space.
    text = segment.text if segment.id else segment.text.lstrip()
    return _sse({"type": "transcript.text.delta", "delta": text})


def _sse(data: dict[str, object]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, ensure_ascii=False))
