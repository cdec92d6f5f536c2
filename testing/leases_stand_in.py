"""An API server for Leases in memory, as strict as a real one, and a connection that can fail in every way."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from whisper_cluster.api import JsonObject, Kind
from whisper_cluster.errors import ClusterError

CLIENT_SECONDS = 15.0
"""The request timeout of the operator's client."""


@dataclass
class Delivery:
    """How one request is delivered. before, after: seconds to the server and back. cut: it never arrives."""

    before: float = 0.0
    after: float = 0.0
    cut: bool = False


@dataclass
class Server:
    """Leases by name, with versions: a write of an outdated version is refused."""

    leases: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    version: int = 0
    conflicts: int = 0

    def get(self, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.leases.get(name))

    def create(self, body: JsonObject) -> dict[str, Any]:
        one = json.loads(json.dumps(body))
        if one["metadata"]["name"] in self.leases:
            raise ClusterError("create", code=409, reason="already exists")
        return self._store(one)

    def replace(self, body: JsonObject) -> dict[str, Any]:
        one = json.loads(json.dumps(body))
        known = self.leases.get(one["metadata"]["name"])
        if known is None:
            raise ClusterError("update", code=404, reason="not found")
        if one["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"]:
            self.conflicts += 1
            raise ClusterError("update", code=409, reason="the object has been modified")
        return self._store(one)

    def _store(self, one: dict[str, Any]) -> dict[str, Any]:
        duration = one["spec"]["leaseDurationSeconds"]
        if not isinstance(duration, int) or duration < 1:
            raise ClusterError("write", code=422, reason="leaseDurationSeconds must be greater than 0")
        for stamp in ("acquireTime", "renewTime"):
            datetime.strptime(one["spec"][stamp], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        self.leases[one["metadata"]["name"]] = one
        return copy.deepcopy(one)

    @property
    def holder(self) -> str:
        return self.leases["whisper-operator"]["spec"]["holderIdentity"]


@dataclass
class Connection:
    """One replica's connection. The server processes what has arrived, even if nobody waits any more."""

    server: Server
    deliveries: Callable[[], Delivery] = Delivery
    in_flight: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    async def get(self, kind: Kind, namespace: str, name: str) -> JsonObject | None:
        return await self._send(lambda: self.server.get(name))

    async def create(self, kind: Kind, body: JsonObject) -> JsonObject:
        return await self._send(lambda: self.server.create(body))

    async def replace(self, kind: Kind, body: JsonObject) -> JsonObject:
        return await self._send(lambda: self.server.replace(body))

    async def _send(self, operation: Callable[[], Any]) -> Any:
        task = asyncio.create_task(self._deliver(operation, self.deliveries()))
        self.in_flight.add(task)
        task.add_done_callback(self._arrived)
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                return await asyncio.shield(task)
        except TimeoutError:
            raise ClusterError("send", code=0, reason="no answer") from None

    async def _deliver(self, operation: Callable[[], Any], delivery: Delivery) -> Any:
        await asyncio.sleep(delivery.before)
        if delivery.cut:
            raise ClusterError("send", code=0, reason="connection refused")
        answer = operation()
        await asyncio.sleep(delivery.after)
        return answer

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        self.in_flight.discard(task)
        if not task.cancelled():
            task.exception()
