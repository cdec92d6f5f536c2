"""The local executor lends the worker, and gives it the job's audio as a file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from obstore.store import MemoryStore

from testing.jobs import open_spool
from whisper_inference.execution import ExecutorLost, Finished, Run, RunEvent, Slot, Stopped
from whisper_inference.jobs.audio_objects import AudioObjects
from whisper_inference.jobs.audio_store import AudioStore
from whisper_inference.jobs.job import LOCAL
from whisper_inference.jobs.spool import Spool, open_store
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.service.local_executor import LocalExecutor
from whisper_inference.transcripts.transcript import Options
from whisper_inference.worker.protocol import Transcribe

AUDIO = b"speech"


class WorkerStandIn:
    """Reads the file that it is given, and ends as scripted. seen: each file's path and content."""

    def __init__(self) -> None:
        self.seen: list[tuple[Path, bytes]] = []
        self.lost: ExecutorLost | None = None

    async def run(self, order: Transcribe) -> AsyncGenerator[RunEvent]:
        path = Path(order.path)
        self.seen.append((path, path.read_bytes()))  # noqa: ASYNC240 (a few bytes)
        if self.lost:
            raise self.lost
        yield Finished(job=order.job, seconds=1.0)

    async def cancel(self, job: str) -> None:
        """Ignore it, as the worker does for a job that it does not have."""


class OwnerStandIn:
    def __init__(self, worker: WorkerStandIn) -> None:
        self._worker = worker

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[WorkerStandIn]:
        yield self._worker


async def spooled(store: AudioStore) -> tuple[Spool, str]:
    async with open_spool(store) as spool, spool.writer(1 << 20) as writer:
        await writer.write(AUDIO)
        return spool, (await writer.commit()).key


def order_for(key: str) -> Run:
    return Run(job="job-1", audio=key, options=Options(), resume=None, max_audio_seconds=60)


@asynccontextmanager
async def slot_of(spool: Spool, worker: WorkerStandIn, folder: Path) -> AsyncGenerator[Slot]:
    owner = cast("LifecycleOwner", OwnerStandIn(worker))
    async with LocalExecutor(owner, spool=spool, fetched=folder).slot(LOCAL) as slot:
        yield slot


@pytest.mark.parametrize("store_of", [open_store, lambda _: AudioObjects(MemoryStore())])
async def test_worker_reads_the_audio_from_a_local_file(tmp_path: Path, store_of: Callable[[Path], AudioStore]) -> None:
    spool, key = await spooled(store_of(tmp_path / "spool"))
    worker = WorkerStandIn()
    async with slot_of(spool, worker, tmp_path / "fetched") as slot:
        assert [event async for event in slot.run(order_for(key))] == [Finished(job="job-1", seconds=1.0)]
    [(path, content)] = worker.seen
    assert content == AUDIO
    assert path == (spool.local_path(key) or tmp_path / "fetched" / "job-1")


@pytest.mark.parametrize("lost", [None, ExecutorLost("crash", "exited with code 1")], ids=["closed", "lost"])
async def test_copy_of_remote_audio_is_deleted_when_the_attempt_ends(tmp_path: Path, lost: ExecutorLost | None) -> None:
    spool, key = await spooled(AudioObjects(MemoryStore()))
    worker = WorkerStandIn()
    worker.lost = lost
    async with slot_of(spool, worker, tmp_path / "fetched") as slot, aclosing(slot.run(order_for(key))) as events:
        if lost:
            with pytest.raises(ExecutorLost):
                await anext(events)
        else:
            await anext(events)
    assert len(worker.seen) == 1
    assert list((tmp_path / "fetched").iterdir()) == []


async def test_missing_remote_audio_raises_before_the_worker_starts(tmp_path: Path) -> None:
    spool, _ = await spooled(AudioObjects(MemoryStore()))
    worker = WorkerStandIn()
    async with slot_of(spool, worker, tmp_path / "fetched") as slot:
        with pytest.raises(FileNotFoundError):
            await anext(slot.run(order_for("audio/unknown")))
    assert worker.seen == []


async def test_job_that_is_cancelled_before_the_worker_has_it_is_stopped(tmp_path: Path) -> None:
    spool, key = await spooled(AudioObjects(MemoryStore()))
    worker = WorkerStandIn()
    async with slot_of(spool, worker, tmp_path / "fetched") as slot:
        await slot.cancel("job-1")
        assert [event async for event in slot.run(order_for(key))] == [Stopped(job="job-1")]
    assert worker.seen == []
