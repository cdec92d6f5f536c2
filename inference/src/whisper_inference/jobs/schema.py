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
    ColumnElement,
    Float,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    bindparam,
    extract,
    func,
    literal_column,
    text,
)
from sqlalchemy import cast as cast_to
from sqlalchemy.engine import Dialect

from whisper_inference.errors import Param
from whisper_inference.jobs.job import Cause, Job, SpooledAudio, Status, StoredAudio
from whisper_inference.transcripts.transcript import Options, Segment
from whispermodel.key import Key

REVISION = "0006"
"""Of the tables below. Every change of them adds a file to `migrations/versions`, which has this number."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime as microseconds since 1970: SQLite drops the offset of its own datetimes."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return microseconds."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return a UTC datetime."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


metadata = MetaData()

# Of 0.1.0, which rejects a version that it does not know.
schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

alembic_version = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

_QUEUED_ROWS = text(f"status = '{Status.QUEUED.value}'")

jobs = Table(
    "jobs",
    metadata,
    # The order of acceptance: the clock may step back, this does not.
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
    # New columns come last, with a server's default, as ALTER TABLE adds them to the tables of earlier releases.
    Column("namespace", String(63), nullable=False, server_default=""),
    Column("whispermodel", String(253), nullable=False, server_default=""),
    Column("due_at", UtcTime, nullable=False, server_default="0"),
    # The process that accepted the job: a synchronous job's client waits there.
    Column("accepted_by", String(255), nullable=False, server_default=""),
    # The process that runs the job, or ended it.
    Column("owner", String(255), nullable=False, server_default=""),
    # By the database's clock. None: nobody renews the lease.
    Column("leased_until", UtcTime),
    # When the client that waited lost its connection; NULL: it has not, or it has come back.
    Column("client_gone_at", UtcTime),
    # When a job that has not started fails; NULL: never, or it has started.
    Column("start_by", UtcTime),
    UniqueConstraint("principal", "idempotency_key", name="one_job_per_idempotency_key"),
    Index("jobs_by_status", "status", "number"),
    Index("jobs_by_end", "finished_at"),
    Index("jobs_by_principal", "principal", "number"),
    Index("jobs_by_model", "namespace", "whispermodel", "status"),
    # Only queued rows: finding the next one must not cost more when there are many finished ones.
    Index(
        "jobs_due",
        "namespace",
        "whispermodel",
        "due_at",
        "number",
        sqlite_where=_QUEUED_ROWS,
        postgresql_where=_QUEUED_ROWS,
    ),
    # Only rows with audio, for the sum of their sizes.
    Index(
        "jobs_held",
        "namespace",
        "whispermodel",
        "audio_size",
        # Constant in this index, but without it SQLite reads each row.
        "audio_held",
        sqlite_where=text("audio_held = 1"),
        postgresql_where=text("audio_held"),
    ),
    # By which a repeated request finds its job: only rows whose client is gone, of which there are few.
    Index(
        "jobs_by_request",
        "principal",
        "fingerprint",
        "number",
        sqlite_where=text("client_gone_at IS NOT NULL"),
        postgresql_where=text("client_gone_at IS NOT NULL"),
    ),
    Index(
        "jobs_by_start",
        "start_by",
        sqlite_where=text("start_by IS NOT NULL"),
        postgresql_where=text("start_by IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

# Audio that no job owns yet: its key and bytes must be known to all processes that share the database.
uploads = Table(
    "uploads",
    metadata,
    Column("audio_key", String(255), primary_key=True),
    Column("namespace", String(63), nullable=False),
    Column("whispermodel", String(253), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("owner", String(255), nullable=False),
    Column("renewed_at", UtcTime, nullable=False),
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


def queued(table: FromClause) -> ColumnElement[bool]:
    """Select the queued rows of `jobs`, or of an alias of it."""
    # Spelled out in the statement: the databases do not use an index of the queued rows for a parameter.
    return table.c.status == literal_column(f"'{Status.QUEUED.value}'", String)


QUEUED = queued(jobs)
RUNNING = jobs.c.status == Status.RUNNING.value


FINAL_WITH_AUDIO = jobs.c.finished_at.is_not(None) & jobs.c.audio_held
"""Selects the final jobs whose audio is still stored."""


def database_time(dialect: str, *, after: timedelta) -> ColumnElement[datetime]:
    """Return the database's time, or that much later, for use in a statement with the parameter `now`.

    SQLite has no clock of its own: its database belongs to one machine, whose clock is the parameter.
    """
    if dialect == "sqlite":
        now = bindparam("now", type_=UtcTime())
    else:
        # Not now(), which is when the transaction began.
        now = cast_to(extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)
    return now.op("+", return_type=UtcTime())(literal_column(str(after // _MICROSECOND)))


def of_model(table: FromClause = jobs) -> ColumnElement[bool]:
    """Select the rows of the model that the parameters `model_namespace` and `model_name` name."""
    return (table.c.namespace == bindparam("model_namespace")) & (table.c.whispermodel == bindparam("model_name"))


def naming(model: Key) -> dict[str, str]:
    """Return the parameters of `of_model`."""
    return {"model_namespace": model.namespace, "model_name": model.name}


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
        "namespace": job.model.namespace,
        "whispermodel": job.model.name,
        "due_at": job.due_at,
        "start_by": job.start_by,
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
        model=model_of(row),
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
        start_by=cast("datetime | None", row["start_by"]),
    )


def model_of(row: Row) -> Key:
    """Return the model that a row names."""
    return Key(cast("str", row["namespace"]), cast("str", row["whispermodel"]))


def stored_audio_of(row: Row) -> StoredAudio:
    """Return the object that a row's job owns."""
    return StoredAudio(cast("str", row["audio_key"]), cast("int", row["audio_size"]))


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
