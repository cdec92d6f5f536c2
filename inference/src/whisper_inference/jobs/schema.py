"""The tables, and the conversion of rows to jobs and back. Nothing here is specific to SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    insert,
    select,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateIndex

from whisper_inference.errors import DataFolderTooNew, Param
from whisper_inference.jobs.job import Cause, Job, SpooledAudio, Status
from whisper_inference.transcripts.transcript import Options, Segment

VERSION = 1
"""Of the tables below. Every change of them increments it and adds a migration.

An index alone does not: earlier releases work with it, so they must not reject the folder.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime as microseconds since 1970: SQLite drops the offset of its own datetimes."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return microseconds."""
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return a UTC datetime."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

jobs = Table(
    "jobs",
    metadata,
    # The order of acceptance; the clock may step back, this does not.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("status", String(16), nullable=False),
    Column("options", JSON, nullable=False),
    Column("filename", Text, nullable=False),
    Column("audio_key", String(255), nullable=False),
    Column("audio_size", BigInteger, nullable=False),
    Column("audio_sha256", String(64), nullable=False),
    # False once the object may be deleted: the job is final and its audio is no longer needed.
    Column("audio_held", Boolean, nullable=False),
    Column("audio_seconds", Float),
    Column("principal", String(255), nullable=False),
    Column("synchronous", Boolean, nullable=False),
    Column("idempotency_key", String(255)),
    Column("fingerprint", String(64), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("attempts", Integer, nullable=False),
    Column("attempt_token", String(64), unique=True),
    Column("progress", Float, nullable=False),
    Column("language", String(16)),
    Column("next_start_sample", BigInteger, nullable=False),
    Column("previous_text", Text),
    Column("error", JSON(none_as_null=True)),
    Column("waiting_for", JSON(none_as_null=True)),
    UniqueConstraint("principal", "idempotency_key", name="one_job_per_idempotency_key"),
    Index("jobs_by_status", "status", "number"),
    Index("jobs_by_end", "finished_at"),
    Index("jobs_by_principal", "principal", "number"),
    sqlite_autoincrement=True,
)

sections = Table(
    "sections",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    # Beside the segments, so that a job's text so far is read without parsing them.
    Column("text", Text, nullable=False),
    Column("segment_count", Integer, nullable=False),
    # JSON, parsed section by section by its reader: hours of it at once would hold up the event loop.
    Column("segments", Text, nullable=False),
)

Row = Mapping[str, object]


async def create_tables(connection: AsyncConnection) -> None:
    """Create the tables and indexes that are missing. Raises DataFolderTooNew when a later version changed them."""
    await connection.run_sync(metadata.create_all)
    found = await connection.scalar(select(schema_version.c.version))
    if found is None:
        await connection.execute(insert(schema_version).values(version=VERSION))
    elif found > VERSION:
        raise DataFolderTooNew(found=found, known=VERSION)
    # Selects every column: a table of another program has others.
    for table in (jobs, sections):
        await connection.execute(select(table).limit(1))
    # create_all skips an existing table, and with it the indexes that later releases have added.
    for index in jobs.indexes:
        await connection.execute(CreateIndex(index, if_not_exists=True))


def row_of(job: Job) -> dict[str, object]:
    """Return the columns of a job that is stored for the first time."""
    return {
        "id": job.id,
        "status": job.status.value,
        "options": asdict(job.options),
        "filename": job.filename,
        "audio_key": job.audio.key,
        "audio_size": job.audio.size,
        "audio_sha256": job.audio.sha256,
        "audio_held": True,
        "audio_seconds": job.audio_seconds,
        "principal": job.principal,
        "synchronous": job.synchronous,
        "idempotency_key": job.idempotency_key,
        "fingerprint": job.fingerprint,
        "created_at": job.created_at,
        "attempts": 0,
        "progress": 0.0,
        "language": job.language,
        "next_start_sample": 0,
    }


def job_of(row: Row) -> Job:
    """Return the job that a row of `jobs` describes."""
    return Job(
        id=cast("str", row["id"]),
        options=Options(**cast("dict[str, str]", row["options"])),  # pyright: ignore[reportArgumentType]
        filename=cast("str", row["filename"]),
        audio=_audio_of(row),
        principal=cast("str", row["principal"]),
        created_at=cast("datetime", row["created_at"]),
        synchronous=bool(row["synchronous"]),
        idempotency_key=cast("str | None", row["idempotency_key"]),
        audio_seconds=cast("float | None", row["audio_seconds"]),
        status=Status(cast("str", row["status"])),
        started_at=cast("datetime | None", row["started_at"]),
        finished_at=cast("datetime | None", row["finished_at"]),
        attempts=cast("int", row["attempts"]),
        progress=cast("float", row["progress"]),
        language=cast("str | None", row["language"]),
        error=_cause_of(row["error"]),
        waiting_for=_cause_of(row["waiting_for"]),
    )


def segments_to_json(segments: tuple[Segment, ...]) -> str:
    """Return what the column `segments` holds."""
    return msgspec.json.encode(segments).decode()


def segments_from_json(stored: str) -> list[Segment]:
    """Return the segments again."""
    return msgspec.json.decode(stored, type=list[Segment])


def stored_cause(cause: Cause | None) -> dict[str, object] | None:
    """Return the JSON form of a cause."""
    return None if cause is None else asdict(cause)


def _audio_of(row: Row) -> SpooledAudio:
    return SpooledAudio(cast("str", row["audio_key"]), cast("int", row["audio_size"]), cast("str", row["audio_sha256"]))


def _cause_of(stored: object) -> Cause | None:
    if stored is None:
        return None
    fields = cast("dict[str, object]", stored)
    return Cause(cast("str", fields["code"]), cast("dict[str, Param]", fields["params"]))
