"""The real job store, on a clock that the test sets."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testing.jobs import Clock
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.store import JobStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[JobStore]:
    database = open_database(sqlite_url(tmp_path))
    numbers = itertools.count(1)
    store = JobStore(database, clock=clock, new_token=lambda: f"token-{next(numbers)}")
    await store.prepare()
    yield store
    await database.close()
