"""Builders of pods, reports, leases and observations for tests of the operator's modules."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from testing import pod_answers
from testing.planner_cases import spec_of
from whisper_cluster.leases import Lease
from whisper_cluster.objects import Deployment, Pod
from whisper_cluster.pods import Address, PodClient, Reply
from whisper_operator.reconcile.observation import Observation, PodView
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import Plan, plan
from whispermodel.states import State
from whispermodel.wire import ModelStatus

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LABEL = "audio-transcriber.io/whispermodel"
Json = dict[str, Any]


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def pod_of(name: str = "base-1", *, container: Json | None = None, labels: Json | None = None, **status: Any) -> Pod:
    """Return a serving pod, with status fields replaced. container: its container's status."""
    containers = [{"name": "inference", **container}] if container is not None else []
    return Pod.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "speech",
                "uid": f"uid-{name}",
                "labels": labels or {LABEL: "base"},
            },
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.7",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": containers,
                **status,
            },
        }
    )


def report_of(state: State = State.LOADED, **fields: Any) -> ModelStatus:
    return ModelStatus.model_validate(pod_answers.status(state.value, **fields))


def view_of(state: State | None = State.LOADED, *, name: str = "base-1", **parts: Any) -> PodView:
    """Return the view of a pod whose server reports a state. None: it was not asked."""
    report = parts.pop("report", report_of(state) if state else None)
    address = Address("10.0.0.7") if report or parts.get("unresponsive") else None
    return PodView(pod_of(name), **{"address": address, "report": report, **parts})


def observation_of(*views: PodView, now: datetime = NOON, **parts: Any) -> Observation:
    return Observation(now=now, pods=views, **parts)


def deployment_of(replicas: int, *, scaled_by: str | None = None) -> Deployment:
    """Return a model's Deployment. scaled_by: another manager of its replicas."""
    claim = {"manager": scaled_by, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    metadata = {"name": "base", "namespace": "speech", "managedFields": [claim] if scaled_by else []}
    return Deployment.model_validate({"metadata": metadata, "spec": {"replicas": replicas}})


def lease_of(*, renewed: datetime = NOON, lasts: int = 15, manual: str | None = None) -> Lease:
    """Return a gateway's demand Lease."""
    annotations = {"audio-transcriber.io/manual": manual} if manual is not None else {}
    metadata = {"name": "demand", "namespace": "speech", "labels": {LABEL: "base"}, "annotations": annotations}
    return Lease.model_validate(
        {"metadata": metadata, "spec": {"renewTime": renewed.isoformat(), "leaseDurationSeconds": lasts}}
    )


def plan_of(state: State = State.ZERO, *, now: datetime = NOON, seen: Json | None = None, **spec: Any) -> Plan:
    """Return the planner's plan for a model in a state."""
    return plan(spec_of(**spec), Observed(state, **(seen or {})), now)


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Answer:
    """A server's response: status and body."""

    def __init__(self, body: object = b"", *, status: int = 200) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


class Server:
    """A pod's ASGI server that records its requests. answer: its response to a method and path with query."""

    def __init__(self, answer: Callable[[str], Awaitable[Answer]]) -> None:
        self._answer = answer
        self.requests: list[str] = []
        self.keys: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope["query_string"].decode()
        request = f"{scope['method']} {scope['path']}{'?' if query else ''}{query}"
        self.requests.append(request)
        self.keys.append(dict(scope["headers"]).get(b"authorization", b"").decode() or None)
        answer = await self._answer(request)
        await send({"type": "http.response.start", "status": answer.status, "headers": []})
        await send({"type": "http.response.body", "body": answer.body})


def always(*answers: Answer) -> Server:
    """Return a server with these responses in order, the last one forever."""
    left: Sequence[Answer] = answers

    async def answer(_: str) -> Answer:
        nonlocal left
        said, left = left[0], left[1:] or left
        return said

    return Server(answer)


def routes(**by_path: Answer) -> Server:
    """Return a server with a response for each last path segment: status, load, unload, metrics."""

    async def answer(request: str) -> Answer:
        return by_path.get(request.split(" ")[1].split("?", maxsplit=1)[0].rpartition("/")[2], Answer(status=404))

    return Server(answer)


class Calling(AbstractAsyncContextManager[PodClient]):
    """A client whose calls go to a server in this process."""

    def __init__(self, server: Server) -> None:
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(server))

    async def __aenter__(self) -> PodClient:
        return PodClient(self)

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def fetch(
        self, method: str, url: str, *, query: Mapping[str, str], headers: Mapping[str, str], most_bytes: int
    ) -> Reply:
        answer = await self._client.request(method, url, params=query, headers=dict(headers), timeout=None)
        return Reply(answer.status_code, answer.content[: most_bytes + 1])
