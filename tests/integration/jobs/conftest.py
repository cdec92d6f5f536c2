"""The job store on each database that it is made for."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Connection, type_coerce, update

from testing.jobs import Clock, Elapse
from testing.postgresql import HOW_TO_GET_IT, PostgresqlServer, binaries, running
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.schema import jobs, uploads
from whisper_inference.jobs.store import JobStore


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    programs = binaries()
    if programs is None:
        pytest.skip(HOW_TO_GET_IT)
    with running(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stores(database: str, clock: Clock) -> AsyncIterator[Callable[[str], JobStore]]:
    """Open the store once more, as another owner."""
    numbers = itertools.count(1)
    opened: list[JobStore] = []

    def open_as(owner: str) -> JobStore:
        new_token = lambda: f"token-{next(numbers)}"  # noqa: E731
        store = JobStore(open_database(database), clock=clock, new_token=new_token, owner=owner)
        opened.append(store)
        return store

    yield open_as
    for store in opened:
        with suppress(Exception):
            await store.database.close()


@pytest.fixture
async def store(stores: Callable[[str], JobStore]) -> JobStore:
    store = stores("")
    await store.prepare()
    return store


@pytest.fixture
def elapse(store: JobStore, clock: Clock) -> Elapse:
    """Let time pass for the database, or step its clock back."""

    async def pass_by(time: timedelta) -> None:
        clock.now += time
        if store.database.dialect == "sqlite":
            return
        # Its clock cannot be set: what it is compared with moves instead.
        earlier = lambda column: type_coerce(column, BigInteger) - time // timedelta(microseconds=1)  # noqa: E731

        def shift(connection: Connection) -> None:
            connection.execute(update(jobs).values(leased_until=earlier(jobs.c.leased_until)))
            connection.execute(update(uploads).values(renewed_at=earlier(uploads.c.renewed_at)))

        await store.database.transact(shift)

    return pass_by
