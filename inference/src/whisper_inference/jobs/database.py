"""Opens the database, and maps its failures."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import structlog
from sqlalchemy import Connection, Engine, Executable, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError

from whisper_inference.errors import DatabaseUnavailable, DiskFull

ResultT = TypeVar("ResultT")
Rows = Sequence[Mapping[str, object]]

log = structlog.stdlib.get_logger(__name__)

_TURN_SECONDS = 30.0
"""How long an operation waits for its turn; a transaction takes milliseconds, so longer means a stuck disk."""

_POSTGRESQL_CONNECTIONS = 5
"""As many as there are transactions at a time, each in a thread; SQLAlchemy's default for a pool."""

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

_READER_PRAGMAS = (
    "PRAGMA query_only=ON",
    # The event loop must not wait.
    "PRAGMA busy_timeout=0",
    "PRAGMA cache_size=-256",
)


class Database:
    """A database whose transactions run in threads, so that each costs the event loop one wait."""

    def __init__(self, engine: Engine, *, connections: int, reader: Engine | None = None) -> None:
        self.engine = engine
        self._reader = reader
        self._reading: Connection | None = None
        self._closed = False
        self._connections = connections
        self._turns = asyncio.Semaphore(connections)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="database")

    @property
    def dialect(self) -> str:
        """The name of its SQL dialect: sqlite or postgresql."""
        return self.engine.dialect.name

    async def transact(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Run work in a transaction, in another thread, and return its result; it is rolled back when work raises.

        A transaction that has begun is completed although its caller is cancelled meanwhile. Raises DiskFull where the
        database says so, and DatabaseUnavailable where it is not there or busy with itself; nothing is changed then,
        unless the connection was lost during the commit.
        """
        await self._turn()
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work)
        except BaseException:
            self._turns.release()
            raise
        running.add_done_callback(lambda _: self._turns.release())
        return await asyncio.shield(running)

    async def fetch(self, statement: Executable, **parameters: object) -> Rows:
        """Return the rows of one statement, which may be a change. Raises what `transact` raises."""
        return await self.transact(lambda connection: _rows_of(connection, statement, parameters))

    async def execute(self, statement: Executable, **parameters: object) -> int:
        """Execute a change, and return how many rows it changed. Raises what `transact` raises."""
        return await self.transact(lambda connection: connection.execute(statement, parameters).rowcount)

    async def look_up(self, statement: Executable, **parameters: object) -> Rows:
        """Return the few rows that an index leads to. Raises what `transact` raises.

        On SQLite in the caller's thread: a reader waits for nobody, and the way to another thread and back takes
        several times as long as the read.
        """
        if self._reader is None or self._closed:
            return await self.fetch(statement, **parameters)
        try:
            self._reading = self._reading or self._reader.connect()
            return _rows_of(self._reading, statement, parameters)
        except OperationalError:
            # Such as locked by somebody's sqlite3 shell, for which the other connection waits.
            return await self.fetch(statement, **parameters)

    async def close(self) -> None:
        """Close the connections after the operations in progress; on SQLite this checkpoints the write-ahead log."""
        for _ in range(self._connections):
            await self._turn()  # After all that wait already.
        self._closed = True
        if self._reading is not None:
            # First: only the last connection that is closed can checkpoint.
            self._reading.close()
        if self._reader is not None:
            self._reader.dispose()
        await asyncio.get_running_loop().run_in_executor(self._threads, self.engine.dispose)
        self._threads.shutdown(wait=False)

    async def _turn(self) -> None:
        if self._closed:
            raise DatabaseUnavailable(reason="closed")
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            log.error("database.busy", waited_seconds=_TURN_SECONDS)
            raise DatabaseUnavailable(reason=f"busy for {_TURN_SECONDS:.0f} s") from None

    def _transact(self, work: Callable[[Connection], ResultT]) -> ResultT:
        with _mapped_errors(self.dialect), self.engine.begin() as connection:
            return work(connection)


def _rows_of(connection: Connection, statement: Executable, parameters: Mapping[str, object]) -> Rows:
    return cast("Rows", connection.execute(statement, parameters).mappings().all())


def sqlite_url(folder: Path) -> str:
    """Return the URL of the database in a data folder."""
    return f"sqlite:///{folder / 'jobs.sqlite3'}"


def open_database(url: str) -> Database:
    """Return the job store's database; connects at its first use."""
    if make_url(url).get_backend_name() != "sqlite":
        return Database(_postgresql(url), connections=_POSTGRESQL_CONNECTIONS)
    # One connection that writes: SQLite has one writer anyway, so the queue replaces busy errors and retries.
    engine = create_engine(url, pool_size=1, max_overflow=0)
    event.listen(engine, "connect", _on_connect(_PRAGMAS))
    # Without transactions: each read sees what was committed last, and keeps nothing from being checkpointed.
    reader = create_engine(url, pool_size=1, max_overflow=0, isolation_level="AUTOCOMMIT")
    event.listen(reader, "connect", _on_connect(_READER_PRAGMAS))
    return Database(engine, connections=1, reader=reader)


def _postgresql(url: str) -> Engine:
    given = make_url(url).query
    options = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in given}
    # Tested before each use: a server that has restarted has cut off all idle connections.
    size = _POSTGRESQL_CONNECTIONS
    return create_engine(url, pool_size=size, max_overflow=0, pool_pre_ping=True, connect_args=options)


def _on_connect(pragmas: Sequence[str]) -> Callable[[DBAPIConnection, object], None]:
    def execute(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    return execute


@contextmanager
def _mapped_errors(dialect: str) -> Generator[None]:
    try:
        yield
    except DBAPIError as error:
        if _is_disk_full(error):
            raise DiskFull from error
        if dialect == "postgresql" and _is_unavailable(error):
            raise DatabaseUnavailable(reason=str(error.orig).strip()) from error
        raise


def _is_disk_full(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None) or getattr(error.orig, "sqlstate", None)
    return code in _FULL


def _is_unavailable(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlstate", None)
    # Without a code, the connection failed or was lost before the server could say anything.
    return isinstance(error, OperationalError) and (code is None or code.startswith(_RETRY_LATER))
