"""An API server for Leases in memory, as strict as the real one, and a wire to it that can fail in every way."""

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
"""For so long the operator's own client waits for an answer."""


@dataclass
class Trip:
    """One request's way. before, after: seconds to the server and back. cut: it never arrives."""

    before: float = 0.0
    after: float = 0.0
    cut: bool = False


@dataclass
class Server:
    """Leases by name, with versions: a write of an old one is refused."""

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
class Wire:
    """One replica's connection. The server goes on with what has arrived, whether or not anybody still waits."""

    server: Server
    trips: Callable[[], Trip] = Trip
    under_way: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    async def get(self, kind: Kind, namespace: str, name: str) -> JsonObject | None:
        return await self._send(lambda: self.server.get(name))

    async def create(self, kind: Kind, body: JsonObject) -> JsonObject:
        return await self._send(lambda: self.server.create(body))

    async def replace(self, kind: Kind, body: JsonObject) -> JsonObject:
        return await self._send(lambda: self.server.replace(body))

    async def _send(self, operation: Callable[[], Any]) -> Any:
        task = asyncio.create_task(self._travel(operation, self.trips()))
        self.under_way.add(task)
        task.add_done_callback(self._arrived)
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                return await asyncio.shield(task)
        except TimeoutError:
            raise ClusterError("send", code=0, reason="no answer") from None

    async def _travel(self, operation: Callable[[], Any], trip: Trip) -> Any:
        await asyncio.sleep(trip.before)
        if trip.cut:
            raise ClusterError("send", code=0, reason="connection refused")
        answer = operation()
        await asyncio.sleep(trip.after)
        return answer

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        self.under_way.discard(task)
        if not task.cancelled():
            task.exception()
