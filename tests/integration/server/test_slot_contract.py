"""What the job queue relies on in a slot: of the local worker, of a pod's server, and of the stand-in for a pod."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from testing.api_server import free_port
from testing.audio_files import speech_in_windows, write_wav
from testing.gateway_side import events_of, order, seconds_of, stored, text_of
from testing.jobs import open_spool
from testing.pod_stand_in import PodServer
from testing.server_process import Launch
from whisper_cluster.pod_http import pod_http
from whisper_cluster.pods import Address
from whisper_inference.errors import NotAudio, ServiceError
from whisper_inference.execution import ExecutorLost, SectionDone, Slot, Stopped
from whisper_inference.fleet.pod_slot import pod_slot
from whisper_inference.jobs.job import LOCAL
from whisper_inference.jobs.spool import Spool
from whisper_inference.service.local_executor import LocalExecutor
from whisper_inference.service.local_model import make_model
from whisper_inference.settings import load_settings
from whisper_inference.transcripts.transcript import Resume
from whisper_inference.worker.supervisor import Liveness

SECONDS = 60


@dataclass(frozen=True)
class Subject:
    """Something that lends slots."""

    slot: Callable[[], AbstractAsyncContextManager[Slot]]
    spool: Spool


@asynccontextmanager
async def local_worker(weights: Path, folder: Path) -> AsyncGenerator[Subject]:
    settings = {
        "WHISPER_MODEL": "tiny.en",
        "WHISPER_ENGINE": "faster-whisper",
        "WHISPER_MODEL_PATH": str(weights),
        "WHISPER_CACHE_DIR": str(folder / "cache"),
        "WHISPER_DATA_DIR": str(folder / "data"),
    }
    model = make_model(load_settings(settings), liveness=Liveness(), zygote=None)
    try:
        async with open_spool(folder / "spool") as spool:
            executor = LocalExecutor(model.owner, spool=spool, fetched=folder / "fetched")
            yield Subject(lambda: executor.slot(LOCAL), spool)
    finally:
        await model.owner.stop()


@asynccontextmanager
async def pod(address: Address, folder: Path) -> AsyncGenerator[Subject]:
    async with open_spool(folder / "spool") as spool, pod_http() as http:
        yield Subject(lambda: pod_slot(http, address, spool=spool), spool)


@pytest.fixture(params=["the local worker", "a pod", "the stand-in"])
async def subject(
    request: pytest.FixtureRequest, launch: Launch, weights: dict[str, Path], tmp_path: Path
) -> AsyncIterator[Subject]:
    match request.param:
        case "the local worker":
            async with local_worker(weights["faster-whisper"], tmp_path) as subject:
                yield subject
        case "a pod":
            with launch() as real:
                url = httpx.URL(real.url)
                async with pod(Address(url.host, port=url.port or 0), tmp_path) as subject:
                    yield subject
        case _:
            server = PodServer("127.0.0.1", port=free_port())
            server.execute.sections, server.execute.section_seconds = 6, 0.1
            await server.start()
            async with pod(Address(server.address, port=server.port), tmp_path) as subject:
                yield subject
            await server.stop()


@pytest.fixture
def speech(tmp_path: Path) -> bytes:
    """The speech twice, in windows of their own."""
    return write_wav(tmp_path / "speech.wav", speech_in_windows(2)).read_bytes()


async def test_a_job_reports_its_sections_and_then_its_length(subject: Subject, speech: bytes) -> None:
    audio = await stored(subject.spool, speech)
    async with asyncio.timeout(SECONDS), subject.slot() as slot:
        events = await events_of(slot, order("j", audio))
    seconds = seconds_of(events)
    sections = [event for event in events if isinstance(event, SectionDone)]
    ids = [segment.id for section in sections for segment in section.segments]
    assert ids == list(range(len(ids)))
    assert all(event.job == "j" for event in events)
    assert [section.resume.next_segment_id for section in sections][-1] == len(ids)
    assert sections[-1].seconds <= seconds
    assert text_of(events)


async def test_an_attempt_resumes_where_an_earlier_one_left_off(subject: Subject, speech: bytes) -> None:
    audio = await stored(subject.spool, speech)
    half = Resume(next_start_sample=480_000, language="en", previous_text=" Earlier.", next_segment_id=7)
    async with asyncio.timeout(SECONDS), subject.slot() as slot:
        events = await events_of(slot, order("j", audio, resume=half))
    segments = [segment for event in events if isinstance(event, SectionDone) for segment in event.segments]
    assert [segment.id for segment in segments] == list(range(7, 7 + len(segments)))
    assert segments[0].start >= 30
    assert seconds_of(events) == pytest.approx(60, abs=0.1)


async def test_a_cancelled_job_stops_and_leaves_the_slot_usable(subject: Subject, speech: bytes) -> None:
    audio = await stored(subject.spool, speech)
    async with asyncio.timeout(SECONDS):
        async with subject.slot() as slot, aclosing(slot.run(order("j", audio))) as events:
            await anext(events)
            await slot.cancel("j")
            rest = [event async for event in events]
        assert isinstance(rest[-1], Stopped)
        async with subject.slot() as slot:
            seconds_of(await events_of(slot, order("k", audio)))


async def test_a_job_that_is_given_up_leaves_the_slot_usable(subject: Subject, speech: bytes) -> None:
    audio = await stored(subject.spool, speech)
    async with asyncio.timeout(SECONDS):
        async with subject.slot() as slot, aclosing(slot.run(order("j", audio))) as events:
            await anext(events)
        async with subject.slot() as slot:
            seconds_of(await events_of(slot, order("k", audio)))


async def test_a_cancellation_that_comes_late_does_not_stop_the_next_attempt(subject: Subject, speech: bytes) -> None:
    audio = await stored(subject.spool, speech)
    async with asyncio.timeout(SECONDS):
        for _ in range(2):
            async with subject.slot() as slot:
                seconds_of(await events_of(slot, order("j", audio)))
                await slot.cancel("j")


async def test_a_killed_executor_is_lost_for_the_given_cause(subject: Subject, speech: bytes) -> None:
    audio = await stored(subject.spool, speech)
    async with asyncio.timeout(SECONDS), subject.slot() as slot, aclosing(slot.run(order("j", audio))) as events:
        await anext(events)
        slot.kill("cancelled", "as the test wants")
        with pytest.raises(ExecutorLost, match="as the test wants") as lost:
            [event async for event in events]
    assert lost.value.cause == "cancelled"


async def test_a_file_that_is_not_audio_fails_its_job(subject: Subject) -> None:
    audio = await stored(subject.spool, b"no sound in here")
    async with asyncio.timeout(SECONDS), subject.slot() as slot:
        with pytest.raises(ServiceError) as refused:
            await events_of(slot, order("j", audio))
    assert refused.value.code == NotAudio.code


async def test_callers_get_the_slot_in_order(subject: Subject) -> None:
    got: list[int] = []

    async def take(number: int) -> None:
        async with subject.slot():
            got.append(number)

    async with asyncio.timeout(SECONDS):
        async with subject.slot():
            waiting: list[asyncio.Task[None]] = []
            for number in range(3):
                waiting.append(asyncio.create_task(take(number)))
                await asyncio.sleep(0.2)
            assert got == []
        await asyncio.gather(*waiting)
    assert got == [0, 1, 2]
