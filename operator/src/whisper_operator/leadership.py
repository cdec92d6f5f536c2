"""Leadership by a Lease: of several replicas one acts, and another follows within seconds of its end.

The protocol is that of client-go (k8s.io/client-go/tools/leaderelection): a lease is free when its record has not
changed for its duration by the *observer's* clock, so no common clock is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from whisper_operator.cluster import LEASES, JsonObject, Kind
from whisper_operator.errors import ClusterError, LeadershipLost
from whisper_operator.kinds import Lease

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. duration: how long a lease holds without renewal. deadline: a leader that could not renew for so long
    steps down, before anybody else may take over. retry: between attempts.
    """

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0


class Leases(Protocol):
    """What a Cluster offers for Leases."""

    async def get(self, kind: Kind, namespace: str, name: str) -> JsonObject | None: ...

    async def create(self, kind: Kind, body: JsonObject) -> JsonObject: ...

    async def replace(self, kind: Kind, body: JsonObject) -> JsonObject: ...


class Leadership:
    """One replica's candidacy. identity: unique among the replicas, the pod's name and a random part."""

    def __init__(
        self,
        leases: Leases,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._leases = leases
        self._namespace, self._name = namespace, name
        self._identity = identity
        self._timing = timing or Timing()
        self._now = now
        self._seen: tuple[str, float] = ("", 0.0)
        self._held_by_another = False
        self.leading = asyncio.Event()

    async def run(self) -> None:
        """Become the leader, however long that takes, and stay it. Raises LeadershipLost."""
        elected_at = await self._until_elected()
        log.info("leader.elected", identity=self._identity)
        self.leading.set()
        try:
            await self._keep(elected_at)
        finally:
            self.leading.clear()

    async def release(self) -> None:
        """Let the next replica follow at once; call when nothing acts any more."""
        try:
            async with asyncio.timeout(self._timing.retry):
                raw = await self._leases.get(LEASES, self._namespace, self._name)
                if raw is not None and (lease := Lease.model_validate(raw)).spec.holder_identity == self._identity:
                    await self._leases.replace(LEASES, self._record(lease, holder=""))
        except (ClusterError, TimeoutError) as error:
            log.warning("leader.not_released", reason=str(error))

    async def _until_elected(self) -> float:
        """Return when the attempt began that succeeded. The lease holds from then on, however late the answer came."""
        while True:
            started = asyncio.get_running_loop().time()
            try:
                # An answer that comes later finds the lease nearly run out: it is renewed before anybody acts on it.
                async with asyncio.timeout(self._timing.deadline - self._timing.retry):
                    if await self._attempt():
                        return started
            except TimeoutError:
                log.warning("leader.attempt_failed", reason="no answer in time")
            await asyncio.sleep(self._timing.retry)

    async def _keep(self, renewed_at: float) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._timing.retry)
            started = clock()
            left = renewed_at + self._timing.deadline - started
            if left <= 0:
                raise LeadershipLost(f"the lease could not be renewed for {self._timing.deadline:g} s")
            try:
                async with asyncio.timeout(left):
                    renewed = await self._attempt()
            except TimeoutError:
                continue
            if renewed:
                renewed_at = started
            elif self._held_by_another:
                raise LeadershipLost("another replica holds the lease")

    async def _attempt(self) -> bool:
        """Take or renew the lease; whether that worked."""
        try:
            return await self._take()
        except ClusterError as error:
            log.warning("leader.attempt_failed", reason=str(error))
            return False

    async def _take(self) -> bool:
        raw = await self._leases.get(LEASES, self._namespace, self._name)
        if raw is None:
            await self._leases.create(LEASES, self._record(None, holder=self._identity))
            return True
        lease = Lease.model_validate(raw)
        self._held_by_another = lease.spec.holder_identity not in (self._identity, "", None)
        if self._held_by_another and not self._has_run_out(lease):
            return False
        await self._leases.replace(LEASES, self._record(lease, holder=self._identity))
        self._held_by_another = False
        return True

    def _has_run_out(self, lease: Lease) -> bool:
        clock = asyncio.get_running_loop().time()
        version, since = self._seen
        if lease.metadata.resource_version != version:
            self._seen = (lease.metadata.resource_version, clock)
            return False
        return clock - since >= (lease.spec.lease_duration_seconds or self._timing.duration)

    def _record(self, lease: Lease | None, *, holder: str) -> JsonObject:
        now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease.spec if lease else None
        takes_over = before is None or before.holder_identity != holder
        acquired = before.acquire_time if before and not takes_over else None
        metadata: JsonObject = {"namespace": self._namespace, "name": self._name}
        if lease is not None:
            metadata["resourceVersion"] = lease.metadata.resource_version
        return {
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                # A whole number of seconds, and one at least, says the API.
                "leaseDurationSeconds": max(1, round(self._timing.duration)) if holder else 1,
                "acquireTime": acquired.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if acquired else now,
                "renewTime": now,
                "leaseTransitions": (before.lease_transitions or 0 if before else 0) + takes_over,
            },
        }
