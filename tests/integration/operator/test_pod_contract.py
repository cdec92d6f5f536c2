"""What the operator relies on in a pod's server, checked with the real server and with the stand-in."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from testing.api_server import free_port
from testing.pod_stand_in import PodServer
from testing.server_process import Launch
from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_cluster.pod_http import pod_http
from whisper_cluster.pods import Address, PodClient
from whispermodel.states import Depth, Mode, State

KEYS = {"the-operator": "operator", "a-person": "control"}
DIGESTS = {hashlib.sha256(key.encode()).hexdigest(): scope for key, scope in KEYS.items()}


@pytest.fixture(params=["the stand-in", "the real server"])
async def address(request: pytest.FixtureRequest, launch: Launch, tmp_path: Path) -> AsyncIterator[Address]:
    """The address of a server that has never loaded."""
    if request.param == "the stand-in":
        server = PodServer("127.0.0.1", port=free_port(), load_seconds=0.3, key_digests=DIGESTS)
        await server.start()
        yield Address("127.0.0.1", "the-operator", server.port)
        await server.stop()
        return
    keys = tmp_path / "keys.yaml"
    keys.write_text(json.dumps([{"name": s, "sha256": digest, "scopes": [s]} for digest, s in DIGESTS.items()]))
    with launch(WHISPER_API_KEYS_FILE=str(keys)) as real:
        url = httpx.URL(real.url)
        yield Address(url.host, "the-operator", url.port or 0)


@pytest.fixture
async def pods() -> AsyncIterator[PodClient]:
    async with pod_http() as http:
        yield PodClient(http)


async def test_load_and_unload(pods: PodClient, address: Address) -> None:
    before = await pods.report(address)
    assert (before.state, before.work_began_seconds, before.manual, before.failure) == (
        State.UNLOADED,
        None,
        None,
        None,
    )
    assert (before.in_flight, before.queued, before.depth) == (0, 0, "cold")
    empty = await pods.memory(address)

    loaded = await pods.load(address)
    assert loaded.load_seconds
    assert loaded.phases
    report = await pods.report(address)
    assert (report.state, report.device) == (State.LOADED, "cpu")
    assert report.work_began_seconds is None, "a load is no work"
    assert report.manual is None, "the operator's own calls are not manual"
    assert report.last_load is not None
    assert (report.last_load.trigger, report.last_load.load_seconds) == ("operator", loaded.load_seconds)
    held = await pods.memory(address)
    assert held.resident > empty.resident + 50 * 2**20
    assert (await pods.load(address)).load_seconds == 0, "it was loaded already"

    unloaded = await pods.unload(address, depth=Depth.WARM)
    assert unloaded.memory_freed is not None
    assert unloaded.memory_freed.ram_mb > 50
    assert (unloaded.device_was, unloaded.fully_released, unloaded.pending) == ("cpu", True, False)
    report = await pods.report(address)
    assert report.depth == "warm"
    assert report.last_unload is not None
    assert (report.last_unload.device_was, report.last_unload.fully_released) == ("cpu", True)
    again = await pods.unload(address, depth=Depth.COLD)
    assert again.device_was is None
    assert (await pods.report(address)).depth == "cold"


async def test_concurrent_loads_join_and_an_unload_cancels(pods: PodClient, address: Address) -> None:
    first, second = asyncio.create_task(pods.load(address)), asyncio.create_task(pods.load(address))
    async with asyncio.timeout(30):
        while (await pods.report(address)).state is not State.LOADING:  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.01)
    await pods.unload(address, depth=Depth.COLD)
    for outcome in await asyncio.gather(first, second, return_exceptions=True):
        assert isinstance(outcome, PodRefused)
        assert outcome.code == "superseded"
    assert (await pods.report(address)).state is State.UNLOADED


async def test_load_with_a_client_key_is_manual(pods: PodClient, address: Address) -> None:
    await pods.load(Address(address.ip, "a-person", address.port))
    manual = (await pods.report(address)).manual
    assert manual is not None
    assert manual.state is Mode.LOADED


async def test_wrong_key_is_refused_with_a_message(pods: PodClient, address: Address) -> None:
    with pytest.raises(PodRefused) as refused:
        await pods.load(Address(address.ip, "nobody", address.port))
    assert (refused.value.status, refused.value.code) == (401, "unauthenticated")
    assert str(refused.value)


async def test_pod_without_listener_is_unreachable(pods: PodClient) -> None:
    with pytest.raises(PodUnreachable, match="GET http://127"):
        await pods.report(Address("127.0.0.1", port=free_port()))
