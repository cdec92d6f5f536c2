"""Jobs as clients bring them, and attempts at them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from sqlalchemy import event

from whisper_inference.jobs.audio_store import AudioStore
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.job import LOCAL, Job, Lease, Section, SpooledAudio
from whisper_inference.jobs.quota import Quota
from whisper_inference.jobs.spool import Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.transcripts.transcript import Options, Resume, Segment, Word
from whispermodel.key import Key

START = datetime(2026, 3, 1, 8, 0, 0, 123456, tzinfo=UTC)


Elapse = Callable[[timedelta], Awaitable[None]]
"""Lets time pass."""


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def forward(self, **by: float) -> None:
        """Move on; negative values step back."""
        self.now += timedelta(**by)


def job(name: str, *, key: str | None = None, sha256: str = "00", options: Options | None = None) -> Job:
    """Return a queued job that nobody waits for."""
    audio = SpooledAudio(key=f"audio/{name}", size=1000, sha256=sha256)
    return Job(
        id=name,
        options=options or Options(),
        filename=f"{name}.flac",
        audio=audio,
        principal="ana",
        created_at=START,
        idempotency_key=key,
    )


async def leased(store: JobStore, model: Key = LOCAL) -> Lease:
    """Start an attempt at the next job of a model, which must have one."""
    lease = await store.lease(model)
    assert lease is not None
    return lease


def section(text: str, *, end: int, first_id: int = 0, progress: float = 0.5) -> Section:
    """Return a section of one segment, which ends at a sample."""
    words = (Word(0.0, 0.5, text, 0.9),)
    segment = Segment(first_id, 0, 0.0, 1.25, text, (50364, 1, 50426), 0.0, -0.25, 1.2, 0.01, words)
    resume = Resume(next_start_sample=end, language="pt", previous_text=text, next_segment_id=first_id + 1)
    return Section((segment,), resume=resume, progress=progress)


@asynccontextmanager
async def open_spool(
    objects: AudioStore | Path, *, limit_bytes: int = 1 << 30, new_key: Callable[[], str] | None = None
) -> AsyncGenerator[Spool]:
    """Open a spool on an object store or a folder, with a database of its own elsewhere."""
    numbers = itertools.count(1)
    with TemporaryDirectory() as folder:
        store = JobStore(open_database(sqlite_url(Path(folder))), clock=Clock(), new_token=str)
        await store.prepare()
        quota = Quota(database=store.database, clock=store.clock, limit_bytes=limit_bytes, retry_after=7)
        audio = open_store(objects) if isinstance(objects, Path) else objects
        try:
            yield Spool(audio, quota=quota, new_key=new_key or (lambda: f"k{next(numbers)}"))
        finally:
            await store.database.close()


def watched(store: JobStore) -> list[tuple[str, object]]:
    """Return a list to which the store's statements and their parameters are added from now on."""
    asked: list[tuple[str, object]] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    return asked


async def query_plan(store: JobStore, statement: str, parameters: object) -> list[str]:
    """Return the steps in which SQLite would execute a statement."""
    explained = f"EXPLAIN QUERY PLAN {statement}"
    plan = await store.database.transact(
        lambda connection: connection.exec_driver_sql(explained, cast("tuple[object]", parameters)).all()
    )
    return [row.detail for row in plan]
