"""The operator's HTTP requests to pods, with one real server for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from testing import pod_answers
from whisper_cluster.pod_http import pod_http
from whisper_cluster.pods import Address, PodClient
from whisper_operator.runtime.app import raise_open_files_limit
from whispermodel.states import State

LOADS = 500
REPORT = pod_answers.status("Loading")


class LoadingServer:
    """Answers status requests at once, and loads when the test allows it."""

    def __init__(self) -> None:
        self.loads = 0
        self.all_load, self.may_end = asyncio.Event(), asyncio.Event()

    async def load(self, request: web.Request) -> web.Response:
        self.loads += 1
        if self.loads == LOADS:
            self.all_load.set()
        await self.may_end.wait()
        return web.json_response(pod_answers.loaded(device="cpu"))

    async def report(self, request: web.Request) -> web.Response:
        return web.json_response(REPORT)


@asynccontextmanager
async def served(server: LoadingServer) -> AsyncIterator[Address]:
    app = web.Application()
    app.add_routes([web.post("/model/load", server.load), web.get("/model/status", server.report)])
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=LOADS)
        await site.start()
        yield Address("127.0.0.1", port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def look_while_all_load() -> State:
    server = LoadingServer()
    async with served(server) as address, pod_http() as http, asyncio.TaskGroup() as group:
        pods = PodClient(http)
        loads = [group.create_task(pods.load(address)) for _ in range(LOADS)]
        async with asyncio.timeout(30):
            await server.all_load.wait()
        report = await pods.report(address)
        server.may_end.set()
        await asyncio.gather(*loads)
    return report.state


def test_many_loads_do_not_delay_a_status_request() -> None:
    raise_open_files_limit()
    assert asyncio.run(look_while_all_load()) is State.LOADING
