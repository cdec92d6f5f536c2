"""The workers: take due keys from the queue, reconcile them, and queue them for their next check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from whisper_cluster.errors import ClusterError, NotLeading
from whisper_operator.runtime.work_queue import WorkQueue
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)

RECONCILE_SECONDS = 60.0
"""The timeout of a reconciliation; most take milliseconds. After it, the key is retried."""


class ReconcilesKeys(Protocol):
    """Reconciles a key; returns when to do so again."""

    async def reconcile(self, key: Key) -> datetime | None: ...


class CountsReconciliations(Protocol):
    """Counts reconciliations."""

    def reconciled(self, result: str, seconds: float) -> None: ...


@dataclass(slots=True)
class Workers:
    """Several workers on one queue."""

    queue: WorkQueue[Key]
    """The keys to reconcile."""

    reconciler: ReconcilesKeys
    """What reconciles them."""

    metrics: CountsReconciliations
    """What counts reconciliations."""

    clock: Callable[[], datetime]
    """The current time, in UTC."""

    busy: dict[Key, float] = field(default_factory=dict[Key, float])
    """Since when each key has been in progress, in seconds of the event loop's clock."""

    async def run(self, count: int) -> None:
        """Reconcile until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._work())

    def stuck(self) -> list[Key]:
        """Return the keys that have been in progress for longer than the timeout allows."""
        now = asyncio.get_running_loop().time()
        return [key for key, since in self.busy.items() if now - since > 2 * RECONCILE_SECONDS]

    async def _work(self) -> None:
        while True:
            async with self.queue.next_key() as key:
                await self._reconcile(key)

    async def _reconcile(self, key: Key) -> None:
        started = self.busy[key] = asyncio.get_running_loop().time()
        result = "error"
        try:
            async with asyncio.timeout(RECONCILE_SECONDS):
                check_at = await self.reconciler.reconcile(key)
            result = "success"
            self.queue.succeeded(key)
            if check_at is not None:
                self.queue.add(key, after=(check_at - self.clock()).total_seconds())
        except (ClusterError, NotLeading) as error:
            log.warning("reconcile.failed", whispermodel=str(key), reason=str(error), retry_in=self.queue.retry(key))
        except Exception:
            log.exception("reconcile.broke", whispermodel=str(key), retry_in=self.queue.retry(key))
        finally:
            del self.busy[key]
            self.metrics.reconciled(result, asyncio.get_running_loop().time() - started)
