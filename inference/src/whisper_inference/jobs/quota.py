"""Limits the bytes of stored audio, and keeps the record of the uploads in progress that the limit includes.

Both are in the database, so that they hold for all processes that share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache

import structlog
from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    ScalarSelect,
    Select,
    Update,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    true,
    update,
)

from whisper_inference.errors import TooManyStoredBytes
from whisper_inference.jobs.database import Database
from whisper_inference.jobs.schema import database_time, jobs, naming, of_model, uploads
from whispermodel.key import Key

FIRST_STEP_BYTES = 1 << 20
"""Reserved when an upload begins; each further step doubles the reservation, so that few of them cost a commit."""

LARGEST_STEP_BYTES = 64 << 20
"""An upload at the slowest rate that is accepted takes 18 hours for it (api/multipart.py, FormLimits)."""

ABANDONED_AFTER = timedelta(days=1)
"""Since its last step, an upload of an owner that no longer exists."""

_SHARE = 8
"""A step takes at most this part of the free bytes: near the limit, none holds what it may not need."""

_LOCK_KEY = 0x71756F74
"""Of the advisory lock under which reservations are made on PostgreSQL; any constant serves ("quot")."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """Audio that is being received, as long as no job owns it."""

    audio_key: str
    """Where it is being stored."""
    model: Key
    """What it is for."""
    principal: str
    """Whose it is."""


@dataclass(slots=True, kw_only=True)
class Quota:
    """Limits the bytes of stored audio. The limits may change at any time, and hold for what is reserved next."""

    database: Database
    """The job store's."""
    clock: Callable[[], datetime]
    """Returns the time in UTC."""
    limit_bytes: int
    """For all jobs together."""
    model_limits: dict[Key, int] = field(default_factory=dict[Key, int])
    """For the jobs of a model, in bytes; models without an entry have no limit of their own."""
    owner: str = ""
    """The process whose uploads these are, as in the job store."""
    retry_after: float = 30.0
    """Seconds after which a refused client may retry."""

    async def stored_bytes(self, model: Key | None = None) -> int:
        """Return the bytes stored or reserved for a model, or (None) for all."""
        wanted, parameters = _stored_of(model)
        [row] = await self.database.fetch(wanted, **parameters)
        return int(str(row["stored"]))

    async def reserve(self, upload: Upload, *, needed: int, wanted: int) -> int:
        """Let an upload grow to a size; return the size that is reserved: what is wanted, if there is room for it.

        Raises TooManyStoredBytes when the needed size does not fit, and leaves the earlier reservation.
        """

        def reserve(connection: Connection) -> int:
            if connection.dialect.name != "sqlite":
                # Two that see the same free bytes must not both take them; SQLite has only one connection.
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            free = self._free(connection, upload, needed=needed)
            granted = max(needed, min(wanted, free // _SHARE))
            self._store(connection, upload, granted)
            return granted

        return await self.database.transact(reserve)

    async def release(self, audio_key: str) -> None:
        """Forget an upload: its audio is gone."""
        # Nearly always a job has taken it, and looking costs less than a change.
        if await self.database.look_up(_UPLOAD, key=audio_key):
            await self.database.execute(END_UPLOAD, key=audio_key)

    def _free(self, connection: Connection, upload: Upload, *, needed: int) -> int:
        limits: list[tuple[Key | None, int]] = [(None, self.limit_bytes)]
        if (of_model_only := self.model_limits.get(upload.model)) is not None:
            limits.append((upload.model, of_model_only))
        least = self.limit_bytes
        for model, limit_bytes in limits:
            stored = connection.scalar(*_stored_of(model, without=upload.audio_key))
            least = min(least, limit_bytes - int(str(stored)))
            if least < needed:
                raise TooManyStoredBytes(limit_bytes=limit_bytes, retry_after=self.retry_after)
        return least

    def _store(self, connection: Connection, upload: Upload, reserved: int) -> None:
        dialect, step = self.database.dialect, {"reserved": reserved, "now": self.clock()}
        if connection.execute(_grow(dialect), {"key": upload.audio_key, **step}).rowcount:
            return
        names = {"namespace": upload.model.namespace, "whispermodel": upload.model.name}
        row = {"audio_key": upload.audio_key, **names, "principal": upload.principal, "owner": self.owner}
        connection.execute(_record(dialect), row | step)


class Reservation:
    """The bytes that are reserved for one upload; they grow in steps, each of which is a commit."""

    def __init__(self, quota: Quota, upload: Upload) -> None:
        self._quota = quota
        self._upload = upload
        self._granted = 0
        self._recorded = False
        self._step: asyncio.Future[int] | None = None

    def begin(self, expected: int | None = None) -> None:
        """Begin to record the upload; expected: its size, if that is known."""
        self._start(needed=0, wanted=FIRST_STEP_BYTES if expected is None else expected)

    async def cover(self, size: int) -> None:
        """Let the upload grow to a size; it is recorded when this returns. Raises TooManyStoredBytes and DiskFull."""
        if not self._recorded:
            await self._end()
        if size > self._granted:
            step = min(max(self._granted, FIRST_STEP_BYTES), LARGEST_STEP_BYTES)
            self._start(needed=size, wanted=max(size, self._granted + step))
            await self._end()

    async def close(self) -> None:
        """Forget the upload: its audio is gone."""
        if self._step is None:
            return
        # A step that its caller left halfway would otherwise record the upload again. No deadline: as any statement.
        await asyncio.wait((self._step,))
        if not self._recorded and (self._step.cancelled() or self._step.exception()):
            return
        try:
            await self._quota.release(self._upload.audio_key)
        except Exception:
            # Its bytes count until the next start.
            log.exception("spool.reservation_not_released", key=self._upload.audio_key)

    def _start(self, *, needed: int, wanted: int) -> None:
        self._step = asyncio.ensure_future(self._quota.reserve(self._upload, needed=needed, wanted=wanted))

    async def _end(self) -> None:
        assert self._step is not None, "the reservation has begun"
        # The step goes on without its caller; close waits for it.
        self._granted = await asyncio.shield(self._step)
        self._recorded = True


def abandoned(now: ColumnElement[datetime], owner: str) -> ColumnElement[bool]:
    """Select the uploads that nobody continues: those from before an owner's start, and those of owners that are gone.

    now: the database's time less ABANDONED_AFTER.
    """
    return (uploads.c.owner == owner) | (uploads.c.renewed_at < now)


def _sum(size: ColumnElement[int], which: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.coalesce(func.sum(size), 0)).where(which).scalar_subquery()


def _stored(of_jobs: ColumnElement[bool], of_uploads: ColumnElement[bool]) -> Select[int]:
    others = uploads.c.audio_key != bindparam("without")
    held = _sum(jobs.c.audio_size, jobs.c.audio_held & of_jobs)
    return select((held + _sum(uploads.c.reserved, others & of_uploads)).label("stored"))


# Made once: composing a statement takes longer than SQLite takes to execute it.
_UPLOAD = select(uploads.c.audio_key).where(uploads.c.audio_key == bindparam("key"))
END_UPLOAD = delete(uploads).where(uploads.c.audio_key == bindparam("key"))
_STORED = _stored(true(), true())
_STORED_OF_MODEL = _stored(of_model(), of_model(uploads))


def _stored_of(model: Key | None, *, without: str = "") -> tuple[Select[int], dict[str, str]]:
    if model is None:
        return _STORED, {"without": without}
    return _STORED_OF_MODEL, {"without": without, **naming(model)}


@cache
def _grow(dialect: str) -> Update:
    known = update(uploads).where(uploads.c.audio_key == bindparam("key"))
    return known.values(renewed_at=database_time(dialect, after=timedelta()))


@cache
def _record(dialect: str) -> Insert:
    return insert(uploads).values(renewed_at=database_time(dialect, after=timedelta()))
