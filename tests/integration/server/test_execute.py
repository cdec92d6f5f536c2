"""A gateway runs jobs on a real server (POST /execute)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from testing.gateway_side import events_of, order, seconds_of, stored, text_of
from testing.jobs import open_spool
from testing.server_process import Json, ServerProcess, StartServer, wait_until
from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_cluster.pod_http import AiohttpTransport, pod_http
from whisper_cluster.pods import Address
from whisper_inference.errors import AudioTooLarge, CheckpointMissing
from whisper_inference.execution import EXECUTE_MEDIA_TYPE, ExecutorLost, JobInput, RunEvent, Slot
from whisper_inference.fleet.pod_slot import PodSlot, pod_slot
from whisper_inference.jobs.spool import Spool
from whisper_inference.transcripts.transcript import Options, Resume
from whisper_inference.worker.protocol import frame

SECONDS = 60


@dataclass(frozen=True)
class Gateway:
    """A gateway's side."""

    http: AiohttpTransport
    spool: Spool

    @asynccontextmanager
    async def running(
        self, server: ServerProcess, audio: bytes, *, job: str = "j"
    ) -> AsyncGenerator[tuple[Slot, AsyncGenerator[RunEvent]]]:
        """Lend the slot and the events of a job that has begun."""
        key = await stored(self.spool, audio)
        async with self.slot(server) as slot, aclosing(slot.run(order(job, key))) as events:
            await anext(events)
            yield slot, events

    def slot(self, server: ServerProcess, *, key: str | None = None) -> AbstractAsyncContextManager[PodSlot]:
        return pod_slot(self.http, address_of(server, key), spool=self.spool)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_spool(tmp_path / "spool") as spool, pod_http() as http, asyncio.timeout(4 * SECONDS):
        yield Gateway(http, spool)


@pytest.fixture
def speech(jfk: Path) -> bytes:
    return jfk.read_bytes()


@pytest.fixture
def long_speech(long_clip: Path) -> bytes:
    return long_clip.read_bytes()


def address_of(server: ServerProcess, key: str | None = None) -> Address:
    url = httpx.URL(server.url)
    return Address(url.host, key, url.port or 0)


def audio_of(server: ServerProcess) -> list[Path]:
    """Return the stored audio, also what is still being written."""
    return [path for path in (server.data_dir / "audio").rglob("*") if path.is_file()]


async def eventually(fact: Callable[[], object], what: str, *, seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not await asyncio.to_thread(fact):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)


def is_free(server: ServerProcess) -> bool:
    return server.status()["in_flight"] == 0 and audio_of(server) == []


def begun(server: ServerProcess, *, body: bytes) -> socket.socket:
    """Return a bare connection that got its slot and has sent the beginning of a body."""
    connection = server.connect()
    head = f"POST /execute HTTP/1.1\r\nHost: pod\r\nContent-Type: {EXECUTE_MEDIA_TYPE}\r\n"
    connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    received = b""
    while b"Granted" not in received:
        received += (part := connection.recv(4096))
        assert part, received
    connection.sendall(b"%x\r\n%s\r\n" % (len(body), body))
    return connection


def order_frame(job: str = "j") -> bytes:
    return frame(JobInput(job=job, options=Options(), resume=None, max_audio_seconds=60))


def last_message(connection: socket.socket) -> Json:
    """Return the last line that the server sends, within seconds."""
    received = b""
    while part := connection.recv(4096):
        received += part
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"{")]
    return json.loads(lines[-1])


async def lost_within(events: AsyncGenerator[RunEvent], *, seconds: float) -> ExecutorLost:
    """Return why the executor was lost; fail unless that is known in time."""
    async with asyncio.timeout(seconds):
        with pytest.raises(ExecutorLost) as lost:
            [event async for event in events]
    return lost.value


async def test_an_executed_job_has_the_result_of_a_job(
    start_server: StartServer, gateway: Gateway, jfk: Path, speech: bytes
) -> None:
    server = start_server()
    audio = await stored(gateway.spool, speech)
    async with gateway.slot(server) as slot:
        assert slot.granted.load_seconds == pytest.approx(server.status()["last_load"]["load_seconds"], abs=1e-4)
        assert server.metric("whisper_cold_start_seconds_count", path="cold", phase="total") == 1
        assert server.status()["in_flight"] == 1
        events = await events_of(slot, order("j", audio))
        assert audio_of(server) == [], "deleted before the end is reported"
    job = server.submit(jfk, language_in="en")
    assert server.wait_for_job(job["id"])["text"] == text_of(events).strip()
    assert seconds_of(events) == pytest.approx(11, abs=0.1)


async def test_an_execution_counts_as_work(start_server: StartServer, gateway: Gateway, speech: bytes) -> None:
    server = start_server(WHISPER_UNLOAD_AFTER="1h")
    server.load()
    before = server.status()["work_began_seconds"]
    audio = await stored(gateway.spool, speech)
    async with gateway.slot(server) as slot:
        assert slot.granted.load_seconds is None, "it was loaded before"
        assert server.metric("whisper_jobs_in_flight") == 1
        assert server.status()["idle_seconds"] == 0
        await events_of(slot, order("j", audio))
    await eventually(lambda: is_free(server), "the slot is free")
    assert before is None
    assert server.status()["work_began_seconds"] > 0
    assert server.metric("whisper_audio_seconds_total") == pytest.approx(11, abs=0.1)
    assert server.metric("whisper_job_duration_seconds_count") == 1
    assert server.metric("whisper_job_queue_seconds_count") == 1
    assert server.metric("whisper_realtime_factor_count") == 1


async def test_a_resumed_attempt_counts_only_its_own_audio(
    start_server: StartServer, gateway: Gateway, speech: bytes
) -> None:
    server = start_server()
    audio = await stored(gateway.spool, speech)
    async with gateway.slot(server) as slot:
        events = await events_of(slot, order("j", audio, resume=Resume(next_start_sample=5 * 16_000, language="en")))
    assert seconds_of(events) == pytest.approx(11, abs=0.1)
    assert server.metric("whisper_audio_seconds_total") == pytest.approx(6, abs=0.1)


async def test_a_client_that_leaves_frees_the_slot(
    start_server: StartServer, gateway: Gateway, long_speech: bytes
) -> None:
    server = start_server()
    async with gateway.running(server, long_speech):
        assert not is_free(server)
    await eventually(lambda: is_free(server), "the slot is free", seconds=15)


async def test_a_client_that_leaves_while_it_waits_takes_no_slot(start_server: StartServer, gateway: Gateway) -> None:
    server = start_server()
    async with gateway.slot(server):
        waiting = asyncio.create_task(gateway.slot(server).__aenter__())
        await eventually(lambda: server.status()["queued"] == 1, "it waits")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await eventually(lambda: server.status()["queued"] == 0, "it has left", seconds=5)


async def test_a_client_that_leaves_during_its_upload_leaves_nothing(
    start_server: StartServer, gateway: Gateway
) -> None:
    server = start_server()
    with await asyncio.to_thread(begun, server, body=order_frame() + b"x" * 2**21):
        await eventually(lambda: audio_of(server), "the upload has begun")
    await eventually(lambda: is_free(server), "nothing is left", seconds=5)


async def test_a_killed_worker_is_lost_and_the_next_job_is_served(
    start_server: StartServer, gateway: Gateway, long_speech: bytes, speech: bytes
) -> None:
    server = start_server()
    async with gateway.running(server, long_speech) as (_, events):
        server.worker().kill()
        lost = await lost_within(events, seconds=5)
    assert (lost.cause, lost.detail) == ("crash", "killed by signal SIGKILL")
    audio = await stored(gateway.spool, speech)
    async with gateway.slot(server) as slot:
        assert text_of(await events_of(slot, order("k", audio)))


async def test_a_forced_unload_puts_the_job_back(
    start_server: StartServer, gateway: Gateway, long_speech: bytes
) -> None:
    server = start_server()
    async with gateway.running(server, long_speech) as (_, events):
        unloading = asyncio.to_thread(server.unload, force="true")
        lost, answer = await asyncio.gather(lost_within(events, seconds=10), unloading)
    assert lost.cause == "forced"
    assert answer.json()["device_was"] == "cpu"


async def test_an_unload_names_the_executed_job_that_it_waits_for(
    start_server: StartServer, gateway: Gateway, long_speech: bytes
) -> None:
    server = start_server()
    async with gateway.running(server, long_speech, job="from-a-gateway"):
        assert "from-a-gateway" in server.unload(wait="false").json()["message"]


async def test_a_killed_pod_is_lost_at_once(start_server: StartServer, gateway: Gateway, long_speech: bytes) -> None:
    server = start_server()
    async with gateway.running(server, long_speech) as (_, events):
        os.kill(server.pid, signal.SIGKILL)
        assert (await lost_within(events, seconds=5)).cause == "unreachable"
    assert audio_of(server) != []
    server.process.wait(SECONDS)
    again = start_server(data_dir=server.data_dir)
    assert audio_of(again) == [], "deleted at the start"


@pytest.mark.parametrize("phase", ["waiting", "running"])
async def test_a_stopped_pod_is_lost_within_six_seconds(
    start_server: StartServer, gateway: Gateway, long_speech: bytes, phase: str
) -> None:
    server = start_server()
    async with gateway.running(server, long_speech) as (_, events):
        waiting = asyncio.create_task(gateway.slot(server).__aenter__())
        await eventually(lambda: server.status()["queued"] == 1, "another waits")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            if phase == "running":
                assert (await lost_within(events, seconds=6)).cause == "unreachable"
            else:
                async with asyncio.timeout(6):
                    with pytest.raises(PodUnreachable, match="no response for 5 s"):
                        await waiting
        finally:
            os.kill(server.pid, signal.SIGCONT)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def test_a_pod_that_stops_reading_is_lost_within_six_seconds(start_server: StartServer, gateway: Gateway) -> None:
    server = start_server()
    audio = await stored(gateway.spool, bytes(2**26))
    async with gateway.slot(server) as slot, aclosing(slot.run(order("j", audio))) as events:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert (await lost_within(events, seconds=6)).cause == "unreachable"
        finally:
            os.kill(server.pid, signal.SIGCONT)
    await eventually(lambda: is_free(server), "nothing is left", seconds=15)


async def test_a_load_that_fails_refuses_the_client_with_its_cause(start_server: StartServer, gateway: Gateway) -> None:
    server = start_server(WHISPER_MODEL_PATH="/nowhere")
    for _ in range(2):
        with pytest.raises(CheckpointMissing) as refused:
            async with gateway.slot(server):
                pytest.fail("there is no model")
        assert refused.value.params["path"] == "/nowhere"
        assert refused.value.retry_after
    failures = server.metric("whisper_model_loads_total", result="checkpoint-missing")
    await asyncio.sleep(1.5)
    assert server.metric("whisper_model_loads_total", result="checkpoint-missing") == failures == 1, "nobody waits"


async def test_a_drain_finishes_executions_and_refuses_new_ones(
    start_server: StartServer, gateway: Gateway, long_speech: bytes
) -> None:
    server = start_server(WHISPER_DRAIN="5m")
    async with gateway.running(server, long_speech) as (_, events):
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: server.client.get("/health/ready").status_code == 503, "it drains")
        with pytest.raises(PodRefused) as refused:
            async with gateway.slot(server):
                pytest.fail("it is shutting down")
        assert (refused.value.status, refused.value.code) == (503, "shutting-down")
        rest = [event async for event in events]
        assert seconds_of(rest) == pytest.approx(120, abs=1)
    assert await asyncio.to_thread(server.process.wait, SECONDS) == 0


async def test_a_server_that_stops_without_a_drain_reports_so(
    start_server: StartServer, gateway: Gateway, long_speech: bytes
) -> None:
    server = start_server()
    async with gateway.running(server, long_speech) as (_, events):
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: server.client.get("/health/ready").status_code == 503, "it stops")
        server.process.send_signal(signal.SIGTERM)
        lost = await lost_within(events, seconds=10)
    assert (lost.cause, lost.detail) == ("stopped", "the server is stopping")
    assert await asyncio.to_thread(server.process.wait, SECONDS) == 0


async def test_executing_needs_the_scope_operator(start_server: StartServer, gateway: Gateway, tmp_path: Path) -> None:
    keys = [{"name": s, "sha256": sha256(s.encode()).hexdigest(), "scopes": [s]} for s in ("control", "operator")]
    file = tmp_path / "keys"
    file.write_text(json.dumps(keys))
    server = start_server(WHISPER_API_KEYS_FILE=str(file))
    for key, status in ((None, 401), ("control", 403)):
        with pytest.raises(PodRefused) as refused:
            async with gateway.slot(server, key=key):
                pytest.fail("let in")
        assert refused.value.status == status
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert server.client.delete("/execute/j", headers=headers).status_code == status
    async with gateway.slot(server, key="operator") as slot:
        await slot.cancel("of no effect")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff\xff\xff\xff{}", "the order is longer than 1048576 bytes"),
        (b"\0\0\0\2{}", "the order cannot be read"),
        (b"\0\0\0\2\xff\xff", "the order cannot be read"),
        (b"\0\0\1\0{}", "the body ends before the end of the order"),
        (b"\0", "the body ends before the end of the order"),
    ],
)
async def test_order_that_cannot_be_read_is_refused(shared_server: ServerProcess, body: bytes, reason: str) -> None:
    def exchange() -> Json:
        with begun(shared_server, body=body) as connection:
            connection.sendall(b"0\r\n\r\n")
            return last_message(connection)

    message = await asyncio.to_thread(exchange)
    assert (message["type"], message["code"]) == ("Refused", "malformed-request")
    assert reason in message["params"]["reason"]


async def test_a_job_can_be_cancelled_during_its_upload(shared_server: ServerProcess) -> None:
    def exchange() -> Json:
        with begun(shared_server, body=order_frame("uploading") + b"x") as connection:
            wait_until(
                lambda: shared_server.client.delete("/execute/uploading").status_code == 204, "the order is here"
            )
            connection.sendall(b"1\r\nx\r\n")
            return last_message(connection)

    assert await asyncio.to_thread(exchange) == {"type": "Stopped", "job": "uploading"}


def test_unknown_job_cannot_be_cancelled(shared_server: ServerProcess) -> None:
    answer = shared_server.client.delete("/execute/unknown")
    assert (answer.status_code, answer.json()["code"]) == (404, "job-not-found")


def test_other_content_types_are_refused(shared_server: ServerProcess) -> None:
    answer = shared_server.client.post("/execute", content=b"{}")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")


async def test_audio_that_cannot_be_read_is_reported_to_the_gateway(
    shared_server: ServerProcess, gateway: Gateway
) -> None:
    async with asyncio.timeout(5), gateway.slot(shared_server) as slot:
        with pytest.raises(FileNotFoundError):
            await events_of(slot, order("j", "audio/gone"))


async def test_audio_beyond_the_limit_fails_the_job(
    start_server: StartServer, gateway: Gateway, long_speech: bytes
) -> None:
    server = start_server(WHISPER_MAX_AUDIO_BYTES=str(len(long_speech) - 1))
    audio = await stored(gateway.spool, long_speech)
    async with gateway.slot(server) as slot:
        with pytest.raises(AudioTooLarge):
            await events_of(slot, order("j", audio))
    await eventually(lambda: is_free(server), "nothing is left", seconds=5)
