"""A proxy in front of the API server that injects network and server faults."""

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

_NOT_FORWARDED = ("Transfer-Encoding", "Content-Length", "Content-Encoding")


@dataclass
class FaultyProxy:
    """Forwards all requests, except for the faults that are configured."""

    api: ApiServer
    """The API server to forward to."""
    port: int
    """The port to listen on."""
    fail_with: int | None = None
    """Respond to every request with this status; 0: close the connection; None: forward."""
    expire_watches: int = 0
    """How many more watches to answer with 410 Gone."""
    failed: int = 0
    """How many requests failed so far."""
    delay_status_writes: bool = False
    """Delay the responses to status patches until this is False again."""
    delayed: int = 0
    """How many responses are being delayed."""
    _streams: set[web.StreamResponse] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def drop_watches(self) -> None:
        """Close the connections of all watches."""
        for stream in list(self._streams):
            transport = stream._req.transport if stream._req else None
            if transport is not None:
                transport.abort()

    async def run(self, ready: threading.Event) -> None:
        """Serve until cancelled."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, limit=0)) as session:
            self._session = session
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{path:.*}", self._forward)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            ready.set()
            try:
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()
                await self._session.close()
                # A TLS connection is closed in the loop's next iterations (aiohttp, "Graceful shutdown").
                await asyncio.sleep(0.25)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self.fail_with is not None:
            self.failed += 1
            if self.fail_with == 0 and request.transport is not None:
                request.transport.abort()
            return _status(self.fail_with)
        is_watch = request.query.get("watch") in ("true", "1")
        if is_watch and self.expire_watches > 0:
            self.expire_watches -= 1
            self.failed += 1
            line = {
                "type": "ERROR",
                "object": {"kind": "Status", "code": 410, "reason": "Expired", "status": "Failure"},
            }
            return web.Response(text=json.dumps(line) + "\n", content_type="application/json")
        headers = {name: value for name, value in request.headers.items() if name not in ("Host", *_NOT_FORWARDED)}
        body = await request.read() or None
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.request(
            request.method, f"{self.api.url}{request.raw_path}", headers=headers, data=body, timeout=timeout
        ) as upstream:
            delay = self.delay_status_writes and request.method == "PATCH" and request.path.endswith("/status")
            self.delayed += delay
            try:
                while delay and self.delay_status_writes:  # noqa: ASYNC110 -- set by the test's thread
                    await asyncio.sleep(0.02)
                return await self._copy(request, upstream, is_watch=is_watch)
            finally:
                self.delayed -= delay

    async def _copy(
        self, request: web.Request, upstream: aiohttp.ClientResponse, *, is_watch: bool
    ) -> web.StreamResponse:
        headers = {name: value for name, value in upstream.headers.items() if name not in _NOT_FORWARDED}
        response = web.StreamResponse(status=upstream.status, headers=headers)
        await response.prepare(request)
        if is_watch:
            self._streams.add(response)
        try:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
        finally:
            self._streams.discard(response)
        return response


def _status(code: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "injected fault"}
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(body, status=code, headers=headers)


@contextmanager
def running_proxy(api: ApiServer) -> Iterator[FaultyProxy]:
    """Run a proxy in its own thread until the end of the block."""
    proxy = FaultyProxy(api, free_port())
    with in_thread(proxy.run, name="proxy"):
        yield proxy
