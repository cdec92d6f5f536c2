"""Leader election by a Lease: one of several replicas acts, and another takes over within seconds.

The protocol is client-go's (k8s.io/client-go/tools/leaderelection): a lease has expired when its record has not
changed for its duration by the *observer's* clock, so the replicas need no common clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import structlog

from whisper_cluster.api import LEASES, JsonObject, Kind
from whisper_cluster.errors import ClusterError
from whisper_cluster.leases import Lease
from whisper_operator.errors import LeadershipLost

log = structlog.stdlib.get_logger(__name__)

ResponseT = TypeVar("ResponseT", JsonObject, JsonObject | None)


@dataclass(frozen=True, slots=True)
class Timing:
    """The intervals of leader election, in seconds."""

    duration: float = 15.0
    """How long a lease is valid without renewal."""

    deadline: float = 10.0
    """How long a leader may fail to renew before it steps down; shorter than duration, so nobody else leads yet."""

    retry: float = 2.0
    """The time between attempts."""


class Leases(Protocol):
    """The methods of Cluster that leader election needs."""

    async def get(self, kind: Kind, namespace: str, name: str) -> JsonObject | None: ...

    async def create(self, kind: Kind, body: JsonObject) -> JsonObject: ...

    async def replace(self, kind: Kind, body: JsonObject) -> JsonObject: ...


class Leadership:
    """One replica's candidacy. identity: unique among the replicas."""

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
        self._leads_until = -math.inf
        self.leading = asyncio.Event()

    async def run(self) -> None:
        """Become the leader, however long that takes, and renew the lease. Raises LeadershipLost."""
        await self._wait_until_elected()
        log.info("leader.elected", identity=self._identity)
        self.leading.set()
        try:
            await self._renew()
        finally:
            self._leads_until = -math.inf
            self.leading.clear()

    def may_act(self) -> bool:
        """Return whether no other replica can lead yet: a process that was stopped learns late that it lost the lease.

        By the monotonic clock, which like client-go's stands still while a machine sleeps.
        """
        return asyncio.get_running_loop().time() < self._leads_until

    async def release(self) -> None:
        """Let another replica lead at once. Call when nothing acts any more."""
        try:
            async with asyncio.timeout(self._timing.retry):
                raw = await self._leases.get(LEASES, self._namespace, self._name)
                if raw is not None and (lease := Lease.model_validate(raw)).spec.holder_identity == self._identity:
                    await self._leases.replace(LEASES, self._record(lease, holder=""))
        except (ClusterError, TimeoutError) as error:
            log.warning("leader.not_released", reason=str(error))

    async def _wait_until_elected(self) -> None:
        while True:
            try:
                # After a late response, the lease has nearly expired: try again rather than act on it.
                async with asyncio.timeout(self._timing.deadline - self._timing.retry):
                    if await self._attempt():
                        return
            except TimeoutError:
                log.warning("leader.attempt_failed", reason="timed out")
            await asyncio.sleep(self._timing.retry)

    async def _renew(self) -> None:
        while True:
            try:
                async with asyncio.timeout_at(self._leads_until):
                    await asyncio.sleep(self._timing.retry)
                    renewed = await self._attempt()
            except TimeoutError:
                raise LeadershipLost(f"could not renew the lease for {self._timing.deadline:g} s") from None
            if not renewed and self._held_by_another:
                raise LeadershipLost("another replica holds the lease")

    async def _attempt(self) -> bool:
        """Acquire or renew the lease; return whether that succeeded."""
        try:
            return await self._acquire()
        except (ClusterError, TimeoutError) as error:
            log.warning("leader.attempt_failed", reason=str(error) or "timed out")
            return False

    async def _request(self, request: Coroutine[object, object, ResponseT]) -> ResponseT:
        """Wait for half the deadline, as client-go does, so that one hanging request does not lose the lease."""
        async with asyncio.timeout(self._timing.deadline / 2):
            return await request

    async def _acquire(self) -> bool:
        raw = await self._request(self._leases.get(LEASES, self._namespace, self._name))
        lease = None if raw is None else Lease.model_validate(raw)
        self._held_by_another = lease is not None and lease.spec.holder_identity not in (self._identity, "", None)
        if lease is not None and self._held_by_another and not self._has_expired(lease):
            return False
        write = self._leases.create if lease is None else self._leases.replace
        # Other replicas count from when they see this write, which is later than now, however late the response is.
        until = asyncio.get_running_loop().time() + self._timing.deadline
        await self._request(write(LEASES, self._record(lease, holder=self._identity)))
        self._leads_until, self._held_by_another = until, False
        return True

    def _has_expired(self, lease: Lease) -> bool:
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
                # The API requires a whole number of seconds, at least one.
                "leaseDurationSeconds": max(1, round(self._timing.duration)) if holder else 1,
                "acquireTime": acquired.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if acquired else now,
                "renewTime": now,
                "leaseTransitions": (before.lease_transitions or 0 if before else 0) + takes_over,
            },
        }
