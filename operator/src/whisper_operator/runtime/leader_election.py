"""Leadership by a Lease: of several replicas one acts, and another follows within seconds of its end.

The protocol is that of client-go (k8s.io/client-go/tools/leaderelection): a lease is free when its record has not
changed for its duration by the *observer's* clock, so no common clock is needed.
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
from whisper_cluster.objects import Lease
from whisper_operator.errors import LeadershipLost

log = structlog.stdlib.get_logger(__name__)

AnswerT = TypeVar("AnswerT", JsonObject, JsonObject | None)


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
        self._leads_until = -math.inf
        self.leading = asyncio.Event()

    async def run(self) -> None:
        """Become the leader, however long that takes, and stay it. Raises LeadershipLost."""
        await self._until_elected()
        log.info("leader.elected", identity=self._identity)
        self.leading.set()
        try:
            await self._keep()
        finally:
            self._leads_until = -math.inf
            self.leading.clear()

    def may_act(self) -> bool:
        """Tell whether nobody else can lead yet: a process that was stopped learns late that it has lost the lease.

        By the monotonic clock, which stands still while a machine sleeps, as that of client-go does.
        """
        return asyncio.get_running_loop().time() < self._leads_until

    async def release(self) -> None:
        """Let the next replica follow at once; call when nothing acts any more."""
        try:
            async with asyncio.timeout(self._timing.retry):
                raw = await self._leases.get(LEASES, self._namespace, self._name)
                if raw is not None and (lease := Lease.model_validate(raw)).spec.holder_identity == self._identity:
                    await self._leases.replace(LEASES, self._record(lease, holder=""))
        except (ClusterError, TimeoutError) as error:
            log.warning("leader.not_released", reason=str(error))

    async def _until_elected(self) -> None:
        while True:
            try:
                # An answer that comes later finds the lease nearly run out: it is renewed before anybody acts on it.
                async with asyncio.timeout(self._timing.deadline - self._timing.retry):
                    if await self._attempt():
                        return
            except TimeoutError:
                log.warning("leader.attempt_failed", reason="no answer in time")
            await asyncio.sleep(self._timing.retry)

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout_at(self._leads_until):
                    await asyncio.sleep(self._timing.retry)
                    renewed = await self._attempt()
            except TimeoutError:
                raise LeadershipLost(f"the lease could not be renewed for {self._timing.deadline:g} s") from None
            if not renewed and self._held_by_another:
                raise LeadershipLost("another replica holds the lease")

    async def _attempt(self) -> bool:
        """Take or renew the lease; whether that worked."""
        try:
            return await self._take()
        except (ClusterError, TimeoutError) as error:
            log.warning("leader.attempt_failed", reason=str(error) or "no answer in time")
            return False

    async def _answer(self, request: Coroutine[object, object, AnswerT]) -> AnswerT:
        """Wait for half the deadline, as client-go does: one request that hangs must not cost the lease."""
        async with asyncio.timeout(self._timing.deadline / 2):
            return await request

    async def _take(self) -> bool:
        raw = await self._answer(self._leases.get(LEASES, self._namespace, self._name))
        lease = None if raw is None else Lease.model_validate(raw)
        self._held_by_another = lease is not None and lease.spec.holder_identity not in (self._identity, "", None)
        if lease is not None and self._held_by_another and not self._has_run_out(lease):
            return False
        write = self._leases.create if lease is None else self._leases.replace
        # Others count from when they see what is written here: later than this, however late the answer comes.
        until = asyncio.get_running_loop().time() + self._timing.deadline
        await self._answer(write(LEASES, self._record(lease, holder=self._identity)))
        self._leads_until, self._held_by_another = until, False
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
