"""The event streams of a job: each segment once and in order, for a slow reader and through repeated attempts too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sse_starlette import ServerSentEvent

from testing.dispatcher_harness import DispatcherHarness, running_dispatcher
from whisper_inference.api.dependencies import Services
from whisper_inference.api.intake import Accepted
from whisper_inference.api.routes.jobs import _follow
from whisper_inference.api.streaming import _events
from whisper_inference.jobs.events import MAX_PENDING, Done, SegmentAdded, TextAdded
from whisper_inference.jobs.job import LOCAL, Lease, Section, Status
from whisper_inference.jobs.service import JobService
from whisper_inference.transcripts.transcript import Resume, Segment


class StreamedJob:
    """A job whose attempt is scripted. services: what the streams read of it."""

    def __init__(self, harness: DispatcherHarness, lease: Lease) -> None:
        self.harness = harness
        self.lease = lease
        self.jobs = JobService(
            store=harness.store,
            spool=harness.spool,
            hub=harness.hub,
            unfetched=harness.unfetched,
            dispatcher=harness.dispatcher,
        )
        self.services = cast("Services", SimpleNamespace(jobs=self.jobs))
        self.accepted = cast("Accepted", SimpleNamespace(job=lease.job, found=None))

    def hear(self, *ids: int) -> None:
        for number in ids:
            self.harness.hub.publish("a", SegmentAdded(segment(number)))

    async def finish_section(self, *ids: int) -> None:
        heard = tuple(map(segment, ids))
        await self.harness.store.append_section(self.lease.token, Section(heard, Resume(ids[-1] + 1), 0.5))
        self.harness.hub.publish("a", TextAdded("".join(one.text for one in heard)))

    async def finish(self) -> None:
        await self.harness.store.succeed(self.lease.token, 30.0)
        self.harness.hub.publish("a", Done(Status.SUCCEEDED))

    async def until_all_is_read(self) -> None:
        async def read() -> bool:
            return not any(one._pending for one in self.harness.hub._subscriptions["a"])

        await self.harness.until(read, "the readers have read")

    def deltas(self) -> AsyncIterator[ServerSentEvent]:
        return _events(self.services, self.accepted)


def segment(number: int) -> Segment:
    return Segment(number, 0, 0.0, 1.0, f" {number}", (1,), 0.0, -0.1, 1.0, 0.0)


def data_of(event: ServerSentEvent) -> dict[str, Any]:
    return json.loads(cast("str", event.data))


async def rest_of(deltas: AsyncIterator[ServerSentEvent]) -> tuple[str, str]:
    """Return what the deltas add up to, and the text at the end."""
    *sent, done = [data_of(event) async for event in deltas]
    return "".join(one["delta"] for one in sent), done["text"]


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[StreamedJob]:
    async with running_dispatcher(tmp_path) as harness:
        await harness.accept("a")
        lease = await harness.store.lease(LOCAL)
        assert lease is not None
        yield StreamedJob(harness, lease)


async def test_stream_with_missed_events_is_complete(job: StreamedJob) -> None:
    await job.finish_section(0)
    deltas = job.deltas()
    first = data_of(await anext(deltas))
    missed = range(1, MAX_PENDING * 2)
    job.hear(*missed)
    reading = asyncio.create_task(rest_of(deltas))
    await job.until_all_is_read()
    await job.finish_section(*missed)
    job.hear(missed.stop)
    await job.finish_section(missed.stop)
    await job.finish()
    sent, text = await reading
    assert first["delta"] + sent == text == " ".join(map(str, range(missed.stop + 1)))


async def test_stream_catches_up_before_its_end(job: StreamedJob) -> None:
    await job.finish_section(0)
    deltas = job.deltas()
    assert data_of(await anext(deltas))["delta"] == "0"
    job.hear(2)
    await job.harness.store.append_section(job.lease.token, Section((segment(1), segment(2)), Resume(3), 0.9))
    await job.finish()
    assert await rest_of(deltas) == (" 1 2", "0 1 2")


async def test_stream_joined_in_mid_section_is_complete(job: StreamedJob) -> None:
    await job.finish_section(0)
    deltas = job.deltas()
    assert data_of(await anext(deltas))["delta"] == "0"
    job.hear(2)
    await job.finish_section(1, 2)
    job.hear(3)
    await job.finish_section(3)
    await job.finish()
    assert await rest_of(deltas) == (" 1 2 3", "0 1 2 3")


async def test_segments_of_a_repeated_attempt_are_sent_once(job: StreamedJob) -> None:
    await job.finish_section(0)
    async with aclosing(cast("Any", _follow(job.services, job.lease.job))) as events:
        assert [(await anext(events)).event for _ in range(2)] == ["status", "segment"]
        job.hear(1, 2)
        job.hear(1, 2, 3)
        await job.finish()
        seen = [event async for event in events]
    assert [data_of(event)["id"] for event in seen if event.event == "segment"] == [1, 2, 3]
