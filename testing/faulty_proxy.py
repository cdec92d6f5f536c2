"""A proxy before the API server that can fail as networks and servers do."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from testing.api_server import ApiServer, free_port
from testing.in_thread import in_thread

_NOT_PASSED_ON = ("Transfer-Encoding", "Content-Length", "Content-Encoding")


@dataclass
class FaultyProxy:
    """Passes everything on, but for the faults that are set.

    failing: answer every request so, without asking the API server; 0: cut its connection; None: pass it on.
    gone: answer so many watches with 410 Gone. refused: how many requests failed so far.
    withholding: keep back the answers to writes of a status until it is unset; withheld: how many are kept back.
    """

    api: ApiServer
    port: int
    failing: int | None = None
    gone: int = 0
    refused: int = 0
    withholding: bool = False
    withheld: int = 0
    _streams: set[web.StreamResponse] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut_watches(self) -> None:
        """Cut all connections on which something is streamed."""
        for stream in list(self._streams):
            transport = stream._req.transport if stream._req else None
            if transport is not None:
                transport.abort()

    async def run(self, ready: threading.Event) -> None:
        """Serve until cancelled."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, limit=0)) as session:
            self._session = session
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{path:.*}", self._pass_on)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            ready.set()
            try:
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()
                await self._session.close()
                # A connection with TLS is closed in the loop's next turns (aiohttp, "Graceful shutdown").
                await asyncio.sleep(0.25)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if self.failing is not None:
            self.refused += 1
            if self.failing == 0 and request.transport is not None:
                request.transport.abort()
            return _status(self.failing)
        watches = request.query.get("watch") in ("true", "1")
        if watches and self.gone > 0:
            self.gone -= 1
            self.refused += 1
            line = {
                "type": "ERROR",
                "object": {"kind": "Status", "code": 410, "reason": "Expired", "status": "Failure"},
            }
            return web.Response(text=json.dumps(line) + "\n", content_type="application/json")
        headers = {name: value for name, value in request.headers.items() if name not in ("Host", *_NOT_PASSED_ON)}
        body = await request.read() or None
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.request(
            request.method, f"{self.api.url}{request.raw_path}", headers=headers, data=body, timeout=timeout
        ) as answer:
            withheld = self.withholding and request.method == "PATCH" and request.path.endswith("/status")
            self.withheld += withheld
            try:
                while withheld and self.withholding:  # noqa: ASYNC110 -- the test's thread does
                    await asyncio.sleep(0.02)
                return await self._copied(request, answer, streams=watches)
            finally:
                self.withheld -= withheld

    async def _copied(
        self, request: web.Request, answer: aiohttp.ClientResponse, *, streams: bool
    ) -> web.StreamResponse:
        headers = {name: value for name, value in answer.headers.items() if name not in _NOT_PASSED_ON}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        if streams:
            self._streams.add(response)
        try:
            async for part in answer.content.iter_any():
                await response.write(part)
        finally:
            self._streams.discard(response)
        return response


def _status(code: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "a fault of the test"}
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(body, status=code, headers=headers)


@contextmanager
def running_proxy(api: ApiServer) -> Iterator[FaultyProxy]:
    """Run a proxy in a thread of its own until the block ends."""
    proxy = FaultyProxy(api, free_port())
    with in_thread(proxy.run, name="proxy"):
        yield proxy
