"""Runs jobs on the local worker process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from whisper_inference.execution import Run, RunEvent, Slot, Stopped
from whisper_inference.jobs.spool import Spool
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.worker.protocol import Transcribe
from whisper_inference.worker.supervisor import Worker
from whispermodel.key import Key


class LocalExecutor:
    """Has one slot: the worker that the lifecycle's owner lends. fetched: folder for copies of remote audio."""

    def __init__(self, owner: LifecycleOwner, *, spool: Spool, fetched: Path) -> None:
        self._owner = owner
        self._spool = spool
        self._fetched = fetched

    @asynccontextmanager
    async def slot(self, model: Key) -> AsyncGenerator[Slot]:  # noqa: ARG002 (there is one)
        """Lend the worker with the model loaded. Raises ShuttingDown, ExecutorLost."""
        async with self._owner.worker() as worker:
            yield _LocalSlot(worker, self)

    @asynccontextmanager
    async def audio_file(self, order: Run) -> AsyncGenerator[Path]:
        """Lend the job's audio as a file; from a remote store it is copied for the duration of the block."""
        path = self._spool.local_path(order.audio)
        if path is not None:
            yield path
            return
        copy = self._fetched / order.job
        await asyncio.to_thread(self._fetched.mkdir, parents=True, exist_ok=True)
        try:
            await self._spool.fetch_to(copy, order.audio)
            yield copy
        finally:
            await asyncio.to_thread(copy.unlink, missing_ok=True)


class _LocalSlot:
    """The worker, lent to one job."""

    def __init__(self, worker: Worker, executor: LocalExecutor) -> None:
        self._worker = worker
        self._executor = executor
        self._cancelled: set[str] = set()

    async def run(self, order: Run) -> AsyncGenerator[RunEvent]:
        async with self._executor.audio_file(order) as path:
            if order.job in self._cancelled:
                # While its audio was being fetched: a worker does not keep cancellations of jobs that it does not have.
                yield Stopped(job=order.job)
                return
            transcribe = Transcribe(
                job=order.job,
                path=str(path),
                options=order.options,
                resume=order.resume,
                max_audio_seconds=order.max_audio_seconds,
            )
            async with aclosing(self._worker.run(transcribe)) as events:
                async for event in events:
                    yield event

    async def cancel(self, job: str) -> None:
        self._cancelled.add(job)
        await self._worker.cancel(job)

    def kill(self, cause: str, detail: str) -> None:
        self._worker.kill(cause, detail)
