"""Opens the database, and maps its failures."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from whisper_inference.errors import DiskFull

POOL_WAIT_SECONDS = 30.0
"""How long an operation waits for its turn; a transaction takes milliseconds, so longer means a stuck disk."""

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC}

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
        return create_async_engine(url, pool_timeout=POOL_WAIT_SECONDS)
    # One connection: SQLite has one writer anyway, so the pool's FIFO queue replaces busy errors and retries,
    # and there is one thread and one page cache to pay for.
    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open a transaction: committed at the end of the block, rolled back when it raises.

    Raises DiskFull where the database says so; nothing is changed then.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        if _is_disk_full(error):
            raise DiskFull from error
        raise


def _is_disk_full(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorcode", None) in _FULL


async def close(engine: AsyncEngine) -> None:
    """Close the connections after the operations in progress; on SQLite this checkpoints the write-ahead log."""
    async with asyncio.timeout(POOL_WAIT_SECONDS):
        if engine.dialect.name == "sqlite":
            with suppress(DBAPIError):
                async with engine.connect():
                    pass  # Its turn comes after all operations that wait already.
        await engine.dispose()
