"""A stand-in for scheduler and kubelet: each pod gets a loopback address and a server that listens there.

It writes pod statuses as a kubelet does, but runs no containers.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx

from testing.api_server import ApiServer
from testing.in_thread import in_thread
from testing.pod_stand_in import PodServer
from testing.real_pod import RealPod

_DO_SECONDS = 30
_RETRY_SECONDS = 0.2

Json = dict[str, Any]
Server = PodServer | RealPod
T = TypeVar("T")


@dataclass
class Kubelet:
    """Runs in a thread with its own event loop."""

    api: ApiServer
    """The API server whose pods it runs."""

    network: str
    """The first two numbers of the pods' addresses."""

    fate: str = "run"
    """What happens to new pods: run, image-missing, unschedulable, crash or oom."""

    prepare: Callable[[PodServer], None] = lambda _: None
    """Called with each new stand-in server."""

    real_servers_in: Path | None = None
    """A folder for real servers; None: the servers are stand-ins."""

    start_seconds: float = 0.0
    """How long a pod takes to be ready once its server has started."""

    drain_seconds: float = 0.0
    """How long a terminating pod keeps running."""

    pods: dict[str, Server] = field(default_factory=dict)
    """The servers of running pods, by name."""

    seen: dict[str, Server] = field(default_factory=dict)
    """The servers of all pods since the last reset, by name."""

    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _described: dict[str, Json] = field(default_factory=dict)
    _restarts: Counter[str] = field(default_factory=Counter)
    _crashed: set[str] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    def do(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the kubelet's thread, and wait for it."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_DO_SECONDS)

    async def crash(self, name: str) -> None:
        """End the server of a pod as a crash of its container does; it starts again by itself."""
        server = self.pods.get(name)
        if server is None or name in self._crashed or f"end {name}" in self._tasks:
            return
        self._crashed.add(name)
        self._restarts[name] += 1
        await server.kill()
        self._once(f"restart {name} {self._restarts[name]}", self._restart(name, server))

    async def _restart(self, name: str, crashed: Server) -> None:
        pod = self._described[name]
        await self._patch_status(pod, _restarting(crashed.address, self._restarts[name]))
        server = crashed if isinstance(crashed, RealPod) else self._stand_in(crashed.address, crashed.key_digests)
        await server.start()
        self._crashed.discard(name)
        if self.pods.get(name) is not crashed or f"end {name}" in self._tasks:
            await server.stop()
            return
        self.pods[name] = self.seen[name] = server
        await self._patch_status(pod, _running(server.address, self._restarts[name]))

    def reset(self) -> None:
        """Restore the defaults: new pods run."""
        self.fate, self.prepare, self.drain_seconds = "run", lambda _: None, 0.0
        self.real_servers_in, self.start_seconds = None, 0.0
        self.seen.clear()

    async def run(self, ready: threading.Event) -> None:
        """Watch all pods until cancelled."""
        trust = self.api.client()._transport._pool._ssl_context  # type: ignore[attr-defined]
        headers = {"Authorization": f"Bearer {self.api.token()}"}
        async with httpx.AsyncClient(base_url=self.api.url, verify=trust, headers=headers, timeout=60) as client:
            self._client, self._loop = client, asyncio.get_running_loop()
            ready.set()
            try:
                while True:
                    with suppress(httpx.HTTPError, ValueError):
                        await self._watch()
                    await asyncio.sleep(0.1)
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*(server.stop() for server in self.pods.values()), return_exceptions=True)

    async def _watch(self) -> None:
        listed = (await self._client.get("/api/v1/pods")).raise_for_status().json()
        for pod in listed["items"]:
            self._see(pod)
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        async with self._client.stream("GET", "/api/v1/pods", params=query, timeout=None) as response:
            async for line in response.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] != "DELETED":
                    self._see(event["object"])

    def _see(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        if pod["metadata"].get("deletionTimestamp"):
            self._once(f"end {name}", self._end(pod))
        elif not pod.get("status", {}).get("podIP"):
            self._once(f"start {name} {self.fate}", self._begin(pod))

    def _once(self, what: str, coroutine: Coroutine[None, None, None]) -> None:
        if what in self._tasks:
            coroutine.close()
        else:
            self._tasks[what] = asyncio.create_task(coroutine)

    async def _begin(self, pod: Json) -> None:
        if self.fate != "run":
            await self._patch_status(pod, _FAILED_STATUSES[self.fate]())
            return
        await self._bind(pod)
        server = await self._started(pod, await self._digests(pod["metadata"]["namespace"]))
        await asyncio.sleep(self.start_seconds)
        self._described[pod["metadata"]["name"]] = pod
        self.pods[pod["metadata"]["name"]] = self.seen[pod["metadata"]["name"]] = server
        await self._patch_status(pod, _running(server.address))

    async def _started(self, pod: Json, digests: dict[str, str]) -> Server:
        """Start a server on the next free address: other test runs use some of them."""
        for number in self._numbers:
            server = self._server(pod, f"{self.network}.{number // 250 % 250}.{number % 250 + 1}", digests)
            with suppress(OSError):
                await server.start()
                return server
        raise AssertionError("no free address")

    def _server(self, pod: Json, address: str, digests: dict[str, str]) -> Server:
        if self.real_servers_in is not None:
            return RealPod.of(pod, address, folder=self.real_servers_in, digests=digests)
        return self._stand_in(address, digests)

    def _stand_in(self, address: str, digests: dict[str, str]) -> PodServer:
        server = PodServer(address, key_digests=digests)
        self.prepare(server)
        return server

    async def _bind(self, pod: Json) -> None:
        """Bind the pod to a node: a pod without a node is deleted without grace."""
        metadata = pod["metadata"]
        body = {"metadata": {"name": metadata["name"]}, "target": {"kind": "Node", "name": "node"}}
        await self._send("POST", f"{_path(pod)}/binding", {"apiVersion": "v1", "kind": "Binding", **body})

    async def _digests(self, namespace: str) -> dict[str, str]:
        """Return the keys in the pod's key file."""
        path = f"/api/v1/namespaces/{namespace}/secrets/whisper-operator-keys"
        answer = await self._send("GET", path)
        if answer.is_error:
            return {}
        entries = json.loads(base64.b64decode(answer.json()["data"]["keys.yaml"]))
        return {entry["sha256"]: entry["scopes"][0] for entry in entries}

    async def _end(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        await asyncio.sleep(self.drain_seconds)
        server = self.pods.get(name)
        while server is not None and server.in_flight:  # noqa: ASYNC110 -- the test's thread changes it
            await asyncio.sleep(0.02)
        if server is not None:
            await server.stop()
            del self.pods[name]
        await self._send("DELETE", _path(pod), {"gracePeriodSeconds": 0})

    async def _patch_status(self, pod: Json, status: Json) -> None:
        await self._send("PATCH", f"{_path(pod)}/status", {"status": status})

    async def _send(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        """Send a request; retry while the API server is away."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = None if body is None else json.dumps(body)
        while True:
            with suppress(httpx.TransportError):
                answer = await self._client.request(method, path, content=content, headers={"Content-Type": kind})
                if answer.status_code < 500:
                    return answer
            await asyncio.sleep(_RETRY_SECONDS)


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _running(address: str, restarts: int = 0) -> Json:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    container = {"name": "inference", "ready": True, "restartCount": restarts, "image": "x", "imageID": "x"}
    return {
        "phase": "Running",
        "podIP": address,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
        "containerStatuses": [{**container, "state": {"running": {"startedAt": now}}}],
    }


def _restarting(address: str, restarts: int) -> Json:
    """Return the status of a pod whose container was killed and starts again."""
    running = _running(address, restarts)
    running["conditions"][0]["status"] = "False"
    [container] = running["containerStatuses"]
    container |= {"ready": False, "lastState": {"terminated": {"exitCode": 137, "reason": "Error"}}}
    return running


def _waiting(reason: str, message: str, last: Json | None = None) -> Json:
    container = {"name": "inference", "ready": False, "restartCount": 3 if last else 0, "image": "x", "imageID": "x"}
    state = {"waiting": {"reason": reason, "message": message}}
    ended = {"lastState": {"terminated": last}} if last else {}
    return {"phase": "Pending", "containerStatuses": [{**container, "state": state, **ended}]}


_FAILED_STATUSES: dict[str, Callable[[], Json]] = {
    "image-missing": lambda: _waiting("ErrImagePull", 'failed to pull image "nowhere/x:1": not found'),
    "unschedulable": lambda: {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
            }
        ],
    },
    "crash": lambda: _waiting("CrashLoopBackOff", "back-off", {"exitCode": 3, "reason": "Error", "message": "no disk"}),
    "oom": lambda: _waiting("CrashLoopBackOff", "back-off", {"exitCode": 137, "reason": "OOMKilled"}),
}


@contextmanager
def running_kubelet(api: ApiServer) -> Iterator[Kubelet]:
    """Give every pod a server until the block ends."""
    kubelet = Kubelet(api, f"127.{1 + os.getpid() % 254}")
    with in_thread(kubelet.run, name="kubelet"):
        yield kubelet
