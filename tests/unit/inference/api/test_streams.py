"""The event streams of a job: each segment once and in order, for a slow reader and through repeated attempts too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sse_starlette import ServerSentEvent

from testing.dispatcher_harness import Scene, playing
from whisper_inference.api.context import Services
from whisper_inference.api.intake import Accepted
from whisper_inference.api.routes.jobs import _follow
from whisper_inference.api.streaming import _events
from whisper_inference.audio.probe import AudioProbe
from whisper_inference.jobs.events import MAX_PENDING, Done, SegmentHeard, TextHeard
from whisper_inference.jobs.job import Lease, Section, Status
from whisper_inference.jobs.service import JobService, Limits
from whisper_inference.model_control import ModelControl
from whisper_inference.transcripts.transcript import Resume, Segment


class Story:
    """A job whose attempt is scripted. services: what the streams read of it."""

    def __init__(self, scene: Scene, lease: Lease) -> None:
        self.scene = scene
        self.lease = lease
        self.jobs = JobService(
            model=cast("ModelControl", None),
            store=scene.store,
            spool=scene.spool,
            hub=scene.hub,
            uncollected=scene.uncollected,
            dispatcher=scene.dispatcher,
            probe=AudioProbe(),
            limits=Limits(max_waiting=1, max_wait=timedelta(1), max_audio_bytes=1000, max_audio_seconds=60),
            counts=scene.store.counts,
        )
        self.services = cast("Services", SimpleNamespace(jobs=self.jobs))
        self.accepted = cast("Accepted", SimpleNamespace(job=lease.job))

    def hear(self, *ids: int) -> None:
        for number in ids:
            self.scene.hub.publish("a", SegmentHeard(segment(number)))

    async def finish_section(self, *ids: int) -> None:
        heard = tuple(map(segment, ids))
        await self.scene.store.append_section(self.lease.token, Section(heard, Resume(ids[-1] + 1), 0.5))
        self.scene.hub.publish("a", TextHeard("".join(one.text for one in heard)))

    async def finish(self) -> None:
        await self.scene.store.succeed(self.lease.token, 30.0)
        self.scene.hub.publish("a", Done(Status.SUCCEEDED))

    async def until_all_is_read(self) -> None:
        async def read() -> bool:
            return not any(one._pending for one in self.scene.hub._subscriptions["a"])

        await self.scene.until(read, "the readers have read")

    def deltas(self) -> AsyncIterator[ServerSentEvent]:
        return _events(self.services, self.accepted)


def segment(number: int) -> Segment:
    return Segment(number, 0, 0.0, 1.0, f" {number}", (1,), 0.0, -0.1, 1.0, 0.0)


def data_of(event: ServerSentEvent) -> dict[str, Any]:
    return json.loads(cast("str", event.data))


async def rest_of(deltas: AsyncIterator[ServerSentEvent]) -> tuple[str, str]:
    """Return what the deltas add up to, and the text at the end."""
    *told, done = [data_of(event) async for event in deltas]
    return "".join(one["delta"] for one in told), done["text"]


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    async with playing(tmp_path) as scene:
        await scene.accept("a")
        lease = await scene.store.lease()
        assert lease is not None
        yield Story(scene, lease)


async def test_a_reader_that_misses_events_of_the_running_section_gets_the_whole_text(story: Story) -> None:
    await story.finish_section(0)
    deltas = story.deltas()
    first = data_of(await anext(deltas))
    missed = range(1, MAX_PENDING * 2)
    story.hear(*missed)
    reading = asyncio.create_task(rest_of(deltas))
    await story.until_all_is_read()
    await story.finish_section(*missed)
    story.hear(missed.stop)
    await story.finish_section(missed.stop)
    await story.finish()
    told, text = await reading
    assert first["delta"] + told == text == " ".join(map(str, range(missed.stop + 1)))


async def test_what_is_missing_at_the_end_comes_before_the_end(story: Story) -> None:
    await story.finish_section(0)
    deltas = story.deltas()
    assert data_of(await anext(deltas))["delta"] == "0"
    story.hear(2)
    await story.scene.store.append_section(story.lease.token, Section((segment(1), segment(2)), Resume(3), 0.9))
    await story.finish()
    assert await rest_of(deltas) == (" 1 2", "0 1 2")


async def test_a_reader_that_comes_in_the_middle_of_a_section_gets_its_beginning_too(story: Story) -> None:
    await story.finish_section(0)
    deltas = story.deltas()
    assert data_of(await anext(deltas))["delta"] == "0"
    story.hear(2)
    await story.finish_section(1, 2)
    story.hear(3)
    await story.finish_section(3)
    await story.finish()
    assert await rest_of(deltas) == (" 1 2 3", "0 1 2 3")


async def test_what_a_repeated_attempt_hears_again_is_told_once(story: Story) -> None:
    await story.finish_section(0)
    async with aclosing(cast("Any", _follow(story.jobs, "a"))) as events:
        assert [(await anext(events)).event for _ in range(2)] == ["status", "segment"]
        story.hear(1, 2)
        story.hear(1, 2, 3)
        await story.finish()
        seen = [event async for event in events]
    assert [data_of(event)["id"] for event in seen if event.event == "segment"] == [1, 2, 3]
