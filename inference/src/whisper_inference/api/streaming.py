"""A transcription as it is heard: OpenAI's transcript.text.delta and transcript.text.done as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from whisper_inference.api.intake import Accepted
from whisper_inference.api.problem import openai_error_of
from whisper_inference.api.timing import timing_headers
from whisper_inference.api.waiting import abandon, patiently
from whisper_inference.errors import ServiceError
from whisper_inference.jobs.events import Done, Missed, SegmentHeard
from whisper_inference.server import Server
from whisper_inference.transcript import Segment

_SEND_SECONDS = 60


async def streamed(request: Request, server: Server, accepted: Accepted) -> Streamed:
    """Answer once the first event is there: a failure before it is a status, not an event.

    Raises what `patiently` raises, and the job's own error.
    """
    events = _events(server, accepted)
    first = await patiently(request, server, accepted, anext(events))

    async def all_events() -> AsyncGenerator[ServerSentEvent]:
        yield first
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except ServiceError as error:
            body = openai_error_of(error, request.headers.get("accept-language"))
            yield ServerSentEvent(json.dumps(body, ensure_ascii=False), event="error")

    headers = await timing_headers(server, accepted)
    return Streamed(all_events(), headers=headers, server=server, accepted=accepted)


class Streamed(EventSourceResponse):
    """Ends with its client: the job of one that hung up is given up."""

    def __init__(
        self,
        events: AsyncGenerator[ServerSentEvent],
        *,
        headers: dict[str, str],
        server: Server,
        accepted: Accepted,
    ) -> None:
        super().__init__(events, headers=headers, send_timeout=_SEND_SECONDS)  # pyright: ignore[reportUnknownMemberType]
        self._server = server
        self._accepted = accepted
        self._held = ExitStack()

    def hold(self, held: ExitStack) -> None:
        """Close this when the stream has ended."""
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self._held:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._abandon_unless_final()

    async def _abandon_unless_final(self) -> None:
        # A server that is told to stop cuts the stream itself: then the client has not hung up, and may ask again.
        job = await self._server.store.get(self._accepted.job.id)
        if self._server.accepting and not job.status.final:
            await abandon(self._server, self._accepted)


async def _events(server: Server, accepted: Accepted) -> AsyncGenerator[ServerSentEvent]:
    job_id = accepted.job.id
    with server.hub.subscribe(job_id) as subscription:
        told = -1
        job = await server.store.get(job_id)
        for segment in await server.store.segments(job_id):
            told = segment.id
            yield _delta(segment)
        if not job.status.final:
            async for event in subscription:
                if isinstance(event, Done):
                    break
                for segment in await _news(server, job_id, event, told):
                    told = segment.id
                    yield _delta(segment)
    transcript = await server.store.transcript(job_id)
    usage = {"type": "duration", "seconds": transcript.duration}
    yield _sse({"type": "transcript.text.done", "text": transcript.text.strip(), "usage": usage})


async def _news(server: Server, job_id: str, event: object, told: int) -> list[Segment]:
    """Return the segments that an event brings and that were not told yet."""
    match event:
        case SegmentHeard(segment=segment):
            return [segment] if segment.id > told else []
        case Missed():
            return [segment for segment in await server.store.segments(job_id) if segment.id > told]
        case _:
            return []


def _delta(segment: Segment) -> ServerSentEvent:
    # The deltas add up to the text, which begins without Whisper's leading space.
    text = segment.text if segment.id else segment.text.lstrip()
    return _sse({"type": "transcript.text.delta", "delta": text})


def _sse(data: dict[str, object]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, ensure_ascii=False))
