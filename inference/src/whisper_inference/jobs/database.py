"""Opens the database, and maps its failures."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from sqlalchemy import Executable, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from whisper_inference.errors import DatabaseUnavailable, DiskFull

POOL_WAIT_SECONDS = 30.0
"""How long an operation waits for its turn; a transaction takes milliseconds, so longer means a stuck disk."""

_FULL: set[int | str] = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    "53100",  # PostgreSQL: disk_full
}

_RETRY_LATER = ("08", "53", "57", "25006", "40001", "40P01", "55P03")
"""PostgreSQL's classes and codes of errors that a retry may not meet (its documentation, appendix A).

Connection lost; out of memory or connections; shutdown, start, time limit; a standby; conflicts between transactions.
"""

_POSTGRESQL_OPTIONS: dict[str, str | int | None] = {
    "connect_timeout": 10,
    # A peer that has vanished without a word is noticed after a minute instead of two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    # Prepared statements belong to a connection, which a pooler (PgBouncer) changes between transactions.
    "prepare_threshold": None,
}
"""What psycopg is given unless the URL sets it."""

_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # FULL, not NORMAL: with WAL, NORMAL syncs at checkpoints only, so that a job answered with 202 could vanish in a
    # power cut (https://sqlite.org/pragma.html#pragma_synchronous). The price is one fsync per transaction.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    # Only somebody's sqlite3 shell can hold the lock: the data folder has one owner.
    "PRAGMA busy_timeout=10000",
    "PRAGMA cache_size=-1024",
    "PRAGMA journal_size_limit=4194304",
)


def sqlite_url(folder: Path) -> str:
    """Return the URL of the database in a data folder."""
    return f"sqlite+aiosqlite:///{folder / 'jobs.sqlite3'}"


def open_engine(url: str) -> AsyncEngine:
    """Return an engine for the job store; connects at its first use."""
    if make_url(url).get_backend_name() != "sqlite":
        return _postgresql(url)
    # One connection: SQLite has one writer anyway, so the pool's FIFO queue replaces busy errors and retries,
    # and there is one thread and one page cache to pay for.
    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _postgresql(url: str) -> AsyncEngine:
    given = make_url(url).query
    options = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in given}
    # Tested before each use: a server that has restarted has cut off all idle connections.
    return create_async_engine(url, pool_timeout=POOL_WAIT_SECONDS, pool_pre_ping=True, connect_args=options)


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open a transaction: committed at the end of the block, rolled back when it raises.

    Raises DiskFull where the database says so, and DatabaseUnavailable where a server is not there or busy with itself;
    nothing is changed then, unless the connection was lost during the commit.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        if _is_disk_full(error):
            raise DiskFull from error
        if engine.dialect.name == "postgresql" and _is_unavailable(error):
            raise DatabaseUnavailable(reason=str(error.orig).strip()) from error
        raise


async def fetch(engine: AsyncEngine, statement: Executable) -> Sequence[Mapping[str, object]]:
    """Return the rows of one statement, which may be a change; a caller that is cancelled does not stop it halfway."""
    # A client that hangs up meanwhile must not break the connection.
    return await asyncio.shield(asyncio.ensure_future(_fetch(engine, statement)))


async def _fetch(engine: AsyncEngine, statement: Executable) -> Sequence[Mapping[str, object]]:
    async with transaction(engine) as connection:
        return cast("Sequence[Mapping[str, object]]", (await connection.execute(statement)).mappings().all())


def _is_disk_full(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None) or getattr(error.orig, "sqlstate", None)
    return code in _FULL


def _is_unavailable(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlstate", None)
    # Without a code, the connection failed or was lost before the server could say anything.
    return isinstance(error, OperationalError) and (code is None or code.startswith(_RETRY_LATER))


async def close(engine: AsyncEngine) -> None:
    """Close the connections after the operations in progress; on SQLite this checkpoints the write-ahead log."""
    async with asyncio.timeout(POOL_WAIT_SECONDS):
        if engine.dialect.name == "sqlite":
            with suppress(DBAPIError):
                async with engine.connect():
                    pass  # Its turn comes after all operations that wait already.
        await engine.dispose()
