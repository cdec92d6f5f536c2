"""A stand-in for the transcription server in a pod: the routes that operator and gateway call, without a model.

It keeps the real server's contract; tests/integration/operator/test_pod_contract.py checks both.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from testing import pod_answers
from testing.execute_stand_in import ExecuteStandIn, has_media_type
from whisper_inference.execution import Refused

MIB = 2**20
_ACCEPT_TURNS = 5
"""Turns of the event loop until an accepted connection belongs to the server; Python 3.11 takes two."""
Json = dict[str, Any]


@dataclass
class PodServer:
    """One pod's server. Its fields may be set while it runs.

    load_seconds, unload_seconds: what they take. refuses: the words of a load that fails. fault: how it answers every
    request: garbage, silence (never), error (500), pause (when resumed). calls: what was asked for, effects: what was
    done, both in order. execute: how it runs jobs for gateways.
    """

    address: str
    port: int = 8002
    load_seconds: float = 0.05
    unload_seconds: float = 0.02
    held_bytes: int = 300 * MIB
    key_digests: dict[str, str] = field(default_factory=dict)
    refuses: str | None = None
    fault: str | None = None
    state: str = "Unloaded"
    warm: bool = False
    in_flight: int = 0
    queued: int = 0
    failure: str | None = None
    manual: Json | None = None
    last_load: Json | None = None
    last_unload: Json | None = None
    calls: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    execute: ExecuteStandIn = field(default_factory=ExecuteStandIn)
    _worked: float | None = None
    _began: float | None = None
    _started: float = field(default_factory=time.monotonic)
    _loading: asyncio.Task[None] | None = None
    _runner: web.AppRunner | None = None
    _listening: socket.socket | None = None

    async def start(self) -> None:
        """Listen."""
        app = web.Application(middlewares=[self._gate])
        app.add_routes(
            [
                web.get("/model/status", self._status),
                web.post("/model/load", self._load),
                web.post("/model/unload", self._unload),
                web.get("/metrics", self._metrics),
                web.post("/execute", self._execute),
                web.delete("/execute/{job}", self._cancel),
            ]
        )
        # A client that leaves ends its execution.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        # With our own socket, since aiohttp does not expose its own.
        self._listening = socket.create_server((self.address, self.port), backlog=128)
        await web.SockSite(self._runner, self._listening).start()

    async def stop(self) -> None:
        """Stop listening, whatever is in progress."""
        if self._loading:
            self._loading.cancel()
        runner, self._runner = self._runner, None
        if runner and runner.server and self._listening:
            # A connection that is accepted while asyncio's server closes is never closed.
            asyncio.get_running_loop().remove_reader(self._listening)
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)
            _hang_up(runner.server)
            await runner.cleanup()

    async def kill(self) -> None:
        """End as a crash does: this instance stays down."""
        await self.stop()

    def pause(self) -> None:
        """Do nothing until resumed, as after SIGSTOP; connections stay open."""
        self.fault, self.execute.paused = "pause", True

    def resume(self) -> None:
        """Continue where it paused."""
        self.fault, self.execute.paused = None, False

    def work(self, jobs: int = 1) -> None:
        """Start work; it loads the model if needed, as a job does."""
        if self.state != "Loaded":
            self.state, self.last_load = "Loaded", self._load_receipt("demand")
        self.in_flight, self._began = jobs, time.monotonic()

    def finish(self) -> None:
        """End the work."""
        self.in_flight, self._worked = 0, time.monotonic()

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self._runner is None:
            # The connection was being accepted when the stand-in stopped, and nothing else would close it.
            if request.transport:
                request.transport.abort()
            return web.Response()
        self.calls.append(f"{request.method} {request.path_qs}")
        if self.fault == "garbage":
            return web.Response(body=b"\x00<html>not ours", content_type="text/html")
        while self.fault == "pause":  # noqa: ASYNC110 -- another thread changes it
            await asyncio.sleep(0.02)
        if self.fault == "silence":
            await asyncio.sleep(3600)
        if self.fault == "error":
            return web.Response(status=500, text="broken")
        if self.key_digests and self._scope(request) is None:
            return _problem(401, "unauthenticated", "A key is needed: Authorization: Bearer KEY.")
        return await handler(request)

    def _scope(self, request: web.Request) -> str | None:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.key_digests.get(hashlib.sha256(key.encode()).hexdigest())

    async def _status(self, _: web.Request) -> web.Response:
        now = time.monotonic()
        idle = 0.0 if self.in_flight else now - (self._worked or self._started)
        return web.json_response(
            {
                "loaded": self.state == "Loaded",
                "state": self.state,
                "model_name": "tiny.en",
                "device": "cpu" if self.state == "Loaded" else None,
                "memory": {"vram_mb": 0, "vram_reserved_mb": 0, "ram_mb": self._held() / MIB, "cuda_available": False},
                "idle_seconds": idle,
                "work_began_seconds": None if self._began is None else now - self._began,
                "in_flight": self.in_flight,
                "queued": self.queued,
                "depth": None if self.state == "Loaded" else "warm" if self.warm else "cold",
                "manual": self.manual,
                "failure": self.failure,
                "last_load": _aged(self.last_load, now),
                "last_unload": _aged(self.last_unload, now),
                "ready_in_seconds": 0,
            }
        )

    async def _load(self, request: web.Request) -> web.Response:
        self._note_manual(request, "Loaded")
        if self.state == "Loaded":
            return web.json_response(pod_answers.loaded(device="cpu", load_seconds=0.0))
        if self._loading is None or self._loading.done():
            self.state = "Loading"
            trigger = "operator" if self._scope(request) == "operator" else "manual"
            self._loading = asyncio.create_task(self._do_load(trigger))
        try:
            await asyncio.shield(self._loading)
        except asyncio.CancelledError:
            return _problem(409, "superseded", "The load was given up for an unload.")
        if self.failure:
            return _problem(503, "model-load-failed", self.failure)
        phases = {"total": self.load_seconds}
        return web.json_response(pod_answers.loaded(device="cpu", load_seconds=self.load_seconds, phases=phases))

    async def _do_load(self, trigger: str) -> None:
        await asyncio.sleep(self.load_seconds)
        self.failure = self.refuses
        self.state = "Failed" if self.refuses else "Loaded"
        if not self.refuses:
            self.effects.append("load")
            self.last_load = self._load_receipt(trigger)

    def _load_receipt(self, trigger: str) -> Json:
        figures = {"load_seconds": self.load_seconds, "phases": {"total": self.load_seconds}}
        return {"device": "cpu", **figures, "trigger": trigger, "at": time.monotonic()}

    async def _unload(self, request: web.Request) -> web.Response:
        # As the real server, it goes on when its caller has gone.
        return await asyncio.shield(asyncio.ensure_future(self._do_unload(request)))

    async def _do_unload(self, request: web.Request) -> web.Response:
        self._note_manual(request, "Unloaded")
        if self._loading and not self._loading.done():
            self._loading.cancel()
            self.state = "Unloaded"
        freed, device = 0, None
        if self.state == "Loaded":
            freed, device = self.held_bytes, "cpu"
            self.state = "Unloading"
            self.effects.append("unload")
            await asyncio.sleep(self.unload_seconds)
        self.state, self.failure = "Unloaded", None
        self.warm = request.query.get("depth", "cold") == "warm"
        receipt = {
            "device_was": device,
            "memory_freed": {"ram_mb": freed / MIB, "vram_mb": 0},
            "fully_released": True,
            "unload_seconds": self.unload_seconds if device else 0.0,
        }
        if device:
            self.last_unload = {**receipt, "at": time.monotonic()}
        return web.json_response(pod_answers.unloaded(**receipt))

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        if self.key_digests and self._scope(request) != "operator":
            return _problem(403, "scope-missing", "This key lacks the scope 'operator'.")
        if self.execute.refuses_with:
            return _problem(*self.execute.refuses_with, "Refused, as the test wants it.")
        if not has_media_type(request):
            return _problem(400, "malformed-request", "The Content-Type is not an order's.")
        return await self.execute.handle(request, begin=self._begin_work, finish=self.finish)

    async def _begin_work(self) -> Refused | None:
        """Load the model as a job does, and begin to work; return why the load failed."""
        if self.state != "Loaded":
            self.state = "Loading"
            await self._do_load("demand")
        if self.failure:
            return Refused("", "model-load-failed", {"cause": self.failure}, retry_after=1.0)
        self.work()
        return None

    async def _cancel(self, request: web.Request) -> web.Response:
        if self.execute.cancel(request.match_info["job"]):
            return web.Response(status=204)
        return _problem(404, "job-not-found", "There is no such job.")

    def _note_manual(self, request: web.Request, state: str) -> None:
        if self._scope(request) != "operator":
            self.manual = {"state": state, "at": datetime.now(UTC).isoformat()}

    async def _metrics(self, _: web.Request) -> web.Response:
        held = self._held()
        lines = [
            "# TYPE whisper_memory_bytes gauge",
            f'whisper_memory_bytes{{process="worker",kind="resident"}} {held + 7 * MIB}',
            f'whisper_memory_bytes{{process="worker",kind="proportional"}} {held}',
            "# TYPE whisper_gpu_memory_bytes gauge",
            'whisper_gpu_memory_bytes{kind="used"} 0',
            'whisper_gpu_memory_bytes{kind="reserved"} 0',
        ]
        return web.Response(text="\n".join(lines) + "\n")

    def _held(self) -> int:
        return 40 * MIB + (self.held_bytes if self.state == "Loaded" else 0)


def _hang_up(server: web.Server) -> None:
    for connection in server.connections:
        if connection.transport:
            connection.transport.abort()


def _aged(receipt: Json | None, now: float) -> Json | None:
    """Return a receipt with its age in place of its time."""
    if receipt is None:
        return None
    return {**{name: one for name, one in receipt.items() if name != "at"}, "seconds_ago": now - receipt["at"]}


def _problem(status: int, code: str, detail: str) -> web.Response:
    body = json.dumps({"type": "about:blank", "status": status, "code": code, "detail": detail})
    return web.Response(status=status, text=body, content_type="application/problem+json")
