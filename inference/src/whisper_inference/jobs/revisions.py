"""Brings a database to the current revision of the tables. Nothing here is specific to SQLite but its lock."""

from __future__ import annotations

import structlog
from sqlalchemy import Connection, insert, inspect, select, text

from whisper_inference.errors import DataFolderTooNew
from whisper_inference.jobs.database import Database
from whisper_inference.jobs.schema import REVISION, alembic_version, jobs, metadata, schema_version, sections

_FIRST_ALEMBIC_VERSION = 2
"""In `schema_version`: 0.1.0 rejects a database whose version is above 1."""

_LOCK_KEY = 0x77686973
"""Of the advisory lock that serialises upgrades on PostgreSQL; any constant serves ("whis")."""

SCRIPTS = "whisper_inference.jobs:migrations"
"""Where Alembic finds the migrations."""

log = structlog.stdlib.get_logger(__name__)


async def prepare_tables(database: Database) -> None:
    """Create the tables, or upgrade those of an earlier release; a failed upgrade changes nothing.

    Raises DataFolderTooNew when a later release has changed them, DBAPIError for the tables of another program.
    """
    if not await database.transact(_is_current):
        await database.transact(_upgrade)


def _is_current(connection: Connection) -> bool:
    """Look without a lock: nearly every start finds the tables current, and must not pay for alembic's import."""
    found = _revision(connection)
    if found is None or int(found) < int(REVISION):
        return False
    if int(found) > int(REVISION):
        raise DataFolderTooNew(found=int(found), known=int(REVISION))
    _require_our_columns(connection)
    return True


def _revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None: there are none."""
    tables = inspect(connection).get_table_names()
    if alembic_version.name in tables:
        return connection.scalar(select(alembic_version.c.version_num))
    return "0001" if schema_version.name in tables else None


def _lock(connection: Connection) -> None:
    """Let one process at a time upgrade; the transaction's end unlocks."""
    if connection.dialect.name == "sqlite":
        # Explicit, because Python's driver opens no transaction for a CREATE or ALTER: each would commit by itself.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


def _upgrade(connection: Connection) -> None:
    _lock(connection)
    # Read again: another process may have upgraded while this one waited for the lock.
    if _is_current(connection):
        return
    found = _revision(connection)
    if found is None:
        _create(connection)
    else:
        _migrate(connection)
        log.info("jobs.database_upgraded", found=found, revision=REVISION)
    _require_our_columns(connection)


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.execute(insert(schema_version).values(version=_FIRST_ALEMBIC_VERSION))
    connection.execute(insert(alembic_version).values(version_num=REVISION))


def _migrate(connection: Connection) -> None:
    # Imported only here: it takes a fifth of a second.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _require_our_columns(connection: Connection) -> None:
    # Selects every column: a table of another program has others.
    for table in (jobs, sections):
        connection.execute(select(table).limit(1))
