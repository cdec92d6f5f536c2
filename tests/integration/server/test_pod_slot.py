"""A gateway's side of a pod's slot: what it makes of a pod that refuses, falls silent, or talks nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from testing.api_server import free_port
from testing.gateway_side import events_of, order, seconds_of, stored, text_of
from testing.jobs import open_spool
from testing.pod_stand_in import PodServer
from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_cluster.pod_http import pod_http
from whisper_cluster.pods import Address
from whisper_inference.errors import LoadFailed, ServiceError
from whisper_inference.execution import ExecutorLost, Lost, Refused, Slot, Stopped
from whisper_inference.fleet.pod_slot import pod_slot
from whisper_inference.jobs.audio_objects import AudioObjects
from whisper_inference.jobs.spool import Spool

AUDIO = b"audio"


@dataclass(frozen=True)
class Pods:
    """A stand-in for a pod, and a gateway's way to it."""

    server: PodServer
    spool: Spool
    slot: Callable[[], AbstractAsyncContextManager[Slot]]

    async def refusal(self) -> Exception:
        """Return why there is no slot."""
        async with asyncio.timeout(10):
            with pytest.raises(Exception) as refused:  # noqa: PT011
                async with self.slot():
                    pytest.fail("got a slot")
        return refused.value

    async def failure(self, audio: bytes = AUDIO) -> Exception:
        """Return why a job failed, within the time that a gateway may take to notice."""
        key = await stored(self.spool, audio)
        async with asyncio.timeout(6.5), self.slot() as slot:
            with pytest.raises(Exception) as failed:  # noqa: PT011
                await events_of(slot, order("j", key))
        return failed.value


@asynccontextmanager
async def running(spool: Spool) -> AsyncGenerator[Pods]:
    server = PodServer("127.0.0.1", port=free_port())
    await server.start()
    try:
        async with pod_http() as http:
            yield Pods(server, spool, lambda: pod_slot(http, Address("127.0.0.1", port=server.port), spool=spool))
    finally:
        await server.stop()


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    async with open_spool(tmp_path / "spool") as spool, running(spool) as pods:
        yield pods


async def test_problem_means_another_pod(pods: Pods) -> None:
    pods.server.execute.refuses_with = (503, "shutting-down")
    refused = await pods.refusal()
    assert isinstance(refused, PodRefused)
    assert (refused.status, refused.code) == (503, "shutting-down")


async def test_pod_that_shuts_down_meanwhile_means_another_pod(pods: Pods) -> None:
    pods.server.execute.refuses = Refused("", "shutting-down", {})
    refused = await pods.refusal()
    assert isinstance(refused, PodRefused)
    assert refused.code == "shutting-down"


async def test_failed_load_is_the_models_error(pods: Pods) -> None:
    pods.server.refuses = "out of memory"
    refused = await pods.refusal()
    assert isinstance(refused, LoadFailed)
    assert (refused.params, refused.retry_after) == ({"cause": "out of memory"}, 1.0)


@pytest.mark.parametrize("fault", ["garbage", "silence", "error"])
async def test_faulty_pod_means_another_pod(pods: Pods, fault: str) -> None:
    pods.server.fault = fault
    assert isinstance(await pods.refusal(), PodUnreachable | PodRefused)


async def test_pod_that_is_not_there_is_unreachable(pods: Pods) -> None:
    await pods.server.stop()
    assert isinstance(await pods.refusal(), PodUnreachable)


@pytest.mark.parametrize("ends_by", ["hang-up", "silence"])
async def test_pod_that_vanishes_in_the_middle_is_lost(pods: Pods, ends_by: str) -> None:
    pods.server.execute.ends_after, pods.server.execute.ends_by = 1, ends_by
    lost = await pods.failure()
    assert isinstance(lost, ExecutorLost)
    assert lost.cause == "unreachable"
    assert f"127.0.0.1:{pods.server.port}" in lost.detail


async def test_pod_reports_why_it_lost_its_worker(pods: Pods) -> None:
    pods.server.execute.ends_after, pods.server.execute.ends_by = 1, Lost("oom", "killed by the kernel")
    lost = await pods.failure()
    assert isinstance(lost, ExecutorLost)
    assert (lost.cause, lost.detail) == ("oom", "killed by the kernel")


async def test_failed_job_is_reported_with_its_code(pods: Pods) -> None:
    pods.server.execute.fails = Refused("", "disk-full", {})
    failed = await pods.failure()
    assert isinstance(failed, ServiceError)
    assert failed.code == "disk-full"


async def test_slow_reader_gets_every_event(pods: Pods) -> None:
    pods.server.execute.sections = 2000
    key = await stored(pods.spool, AUDIO)
    async with pods.slot() as slot, aclosing(slot.run(order("j", key))) as events:
        await anext(events)
        # Longer than a silence may be.
        await asyncio.sleep(5.5)
        rest = [event async for event in events]
    assert text_of(rest) == "".join(f" j{number}" for number in range(2000))


async def test_large_audio_arrives_whole(pods: Pods) -> None:
    content = AUDIO + bytes(range(256)) * 2**15
    key = await stored(pods.spool, content)
    async with pods.slot() as slot:
        seconds_of(await events_of(slot, order("j", key)))
    assert pods.server.execute.executions[0].audio == content


async def test_audio_may_come_from_a_remote_store() -> None:
    async with open_spool(AudioObjects(MemoryStore())) as spool, running(spool) as pods:
        key = await stored(spool, AUDIO * 2**20)
        async with pods.slot() as slot:
            seconds_of(await events_of(slot, order("j", key)))
        assert pods.server.execute.executions[0].audio == AUDIO * 2**20


async def test_job_that_is_cancelled_stops(pods: Pods) -> None:
    pods.server.execute.held = True
    key = await stored(pods.spool, AUDIO)
    async with asyncio.timeout(10), pods.slot() as slot, aclosing(slot.run(order("j", key))) as events:
        await anext(events)
        await slot.cancel("j")
        assert [event async for event in events][-1] == Stopped(job="j")


async def test_cancelling_at_a_pod_that_is_gone_raises_nothing(pods: Pods) -> None:
    async with pods.slot() as slot:
        await pods.server.stop()
        await slot.cancel("j")


async def test_killed_slot_frees_the_pod(pods: Pods) -> None:
    pods.server.execute.held = True
    key = await stored(pods.spool, AUDIO)
    async with asyncio.timeout(10):
        async with pods.slot() as slot, aclosing(slot.run(order("j", key))) as events:
            await anext(events)
            slot.kill("cancelled", "did not stop")
            slot.kill("store", "a later cause does not count")
            with pytest.raises(ExecutorLost) as lost:
                [event async for event in events]
        assert lost.value.cause == "cancelled"
        async with pods.slot():
            assert pods.server.in_flight == 1
