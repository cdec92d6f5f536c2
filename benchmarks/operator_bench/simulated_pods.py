"""Simulated pods: the kubelet, the Deployment controller, and the server in each pod."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from testing import pod_answers
from testing.simulated_api import SimulatedApi
from whisper_cluster.pods import Reply

Json = dict[str, Any]
_START_SECONDS, _LOAD_SECONDS, _UNLOAD_SECONDS = 2.0, 0.3, 0.1
_LABEL = "audio-transcriber.io/whispermodel"
_MIB = 2**20


@dataclass
class SimulatedPod:
    """The server in a pod, with the interface of testing/pod_stand_in.py, on the event loop's clock."""

    clock: Callable[[], float]
    state: str = "Unloaded"
    warm: bool = False
    in_flight: int = 0
    began: float | None = None
    worked: float | None = None

    async def answer(self, request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/model/status":
                return httpx.Response(200, json=self._status())
            case "/model/load":
                return httpx.Response(200, json=await self._load())
            case "/model/unload":
                return httpx.Response(200, json=await self._unload(request.url.params["depth"]))
            case _:
                return httpx.Response(200, text=self._metrics())

    async def work(self, seconds: float) -> None:
        """Simulate a job of some seconds."""
        self.in_flight, self.began = self.in_flight + 1, self.clock()
        await asyncio.sleep(seconds)
        self.in_flight, self.worked = self.in_flight - 1, self.clock()

    def _status(self) -> Json:
        now = self.clock()
        return pod_answers.status(
            self.state,
            device="cpu" if self.state == "Loaded" else None,
            idle_seconds=0.0 if self.in_flight else now - (self.worked or 0.0),
            work_began_seconds=None if self.began is None else now - self.began,
            in_flight=self.in_flight,
            depth="warm" if self.warm and self.state == "Unloaded" else None,
        )

    async def _load(self) -> Json:
        self.state = "Loading"
        await asyncio.sleep(_LOAD_SECONDS)
        self.state = "Loaded"
        return pod_answers.loaded(device="cpu", load_seconds=_LOAD_SECONDS, phases={"total": _LOAD_SECONDS})

    async def _unload(self, depth: str) -> Json:
        held, self.state = self.state == "Loaded", "Unloading"
        await asyncio.sleep(_UNLOAD_SECONDS)
        self.state, self.warm = "Unloaded", depth == "warm"
        freed = {"ram_mb": 300.0 if held else 0.0, "vram_mb": 0.0}
        return pod_answers.unloaded(
            device_was="cpu" if held else None,
            memory_freed=freed,
            fully_released=True,
            unload_seconds=_UNLOAD_SECONDS,
        )

    def _metrics(self) -> str:
        held = (340 if self.state == "Loaded" else 40) * _MIB
        return (
            f'# TYPE whisper_memory_bytes gauge\nwhisper_memory_bytes{{process="worker",kind="proportional"}} {held}\n'
        )


@dataclass
class SimulatedNode:
    """Starts and stops pods to match the replicas of Deployments."""

    clock: Callable[[], float]
    pods: dict[str, SimulatedPod] = field(default_factory=dict[str, SimulatedPod])
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    started: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def fetch(
        self, method: str, url: str, *, query: Mapping[str, str], headers: Mapping[str, str], most_bytes: int
    ) -> Reply:
        """Answer a request for the pod with that address."""
        request = httpx.Request(method, url, params=query, headers=dict(headers))
        pod = self.pods.get(request.url.host)
        if pod is None:
            raise ConnectionError("no route to host")
        answer = await pod.answer(request)
        return Reply(answer.status_code, answer.content[: most_bytes + 1])

    def pod_of(self, path: str) -> SimulatedPod | None:
        """Return the pod of a Deployment."""
        return self.pods.get(self.addresses.get(path, ""))

    def see(self, api: SimulatedApi, path: str, deployment: Json | None) -> None:
        """Handle a change of a Deployment; None means that it was deleted."""
        wanted = deployment["spec"].get("replicas", 1) if deployment else 0
        if wanted and path not in self.addresses:
            assert deployment is not None
            self._spawn(self._start(api, path, deployment))
        elif not wanted and path in self.addresses:
            self._spawn(self._end(api, path))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, api: SimulatedApi, path: str, deployment: Json) -> None:
        self.started += 1
        address = self.addresses[path] = f"10.{self.started >> 16 & 255}.{self.started >> 8 & 255}.{self.started & 255}"
        await asyncio.sleep(_START_SECONDS)
        if self.addresses.get(path) != address:
            return
        self.pods[address] = SimulatedPod(self.clock)
        metadata = deployment["metadata"]
        name = f"{metadata['name']}-{self.started}"
        labels = {_LABEL: metadata["labels"][_LABEL]}
        status = {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}
        body = {"metadata": {"name": name, "namespace": metadata["namespace"], "labels": labels}, "status": status}
        api.put(_pod_path(metadata["namespace"], name), body)

    async def _end(self, api: SimulatedApi, path: str) -> None:
        address = self.addresses.pop(path)
        await asyncio.sleep(_UNLOAD_SECONDS)
        self.pods.pop(address, None)
        ended = [where for where, one in api.objects.items() if one.get("status", {}).get("podIP") == address]
        for where in ended:
            api.delete(where)


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"
