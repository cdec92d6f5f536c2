"""Stored audio: streamed into an object store under a byte cap, complete or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from whisper_inference.errors import AudioTooLarge, DiskFull, StorageUnusable
from whisper_inference.jobs.job import LOCAL, SpooledAudio, StoredAudio
from whisper_inference.jobs.quota import Quota, Reservation, Upload
from whispermodel.key import Key

if TYPE_CHECKING:
    from obstore import BytesStream

_PREFIX = "audio"

LOCAL_PART_BYTES = 1 << 20
"""What a writer buffers before it writes; at most three parts per upload are in memory."""

REMOTE_PART_BYTES = 5 << 20
"""The minimum size of a part of an S3 multipart upload (Amazon S3 User Guide, multipart upload limits)."""

STORE_DEADLINE_SECONDS = 60.0
"""For one operation of the store, a part or a commit; longer means that the disk or the network is stuck."""

_STAGED = re.compile(r"#\d+$")
"""How the local store names a file that is still being written (object_store, local.rs: staged_upload_path)."""

_SECRET = re.compile(r"//[^/@\s]*@")


class SpoolWriter:
    """One object being written; made by Spool.writer. One task at a time may use it."""

    def __init__(self, store: ObjectStore, key: str, *, limit_bytes: int, reservation: Reservation) -> None:
        self._store = store
        self._key = key
        self._limit_bytes = limit_bytes
        self._reservation = reservation
        self._root = _root_of(store)
        self._part_bytes = REMOTE_PART_BYTES if self._root is None else LOCAL_PART_BYTES
        self._digest = sha256()
        self._size = 0
        self._gathered = bytearray()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._kept = False
        self._aborted = False
        self._upload = asyncio.create_task(self._put())

    async def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes; waits while the store is slower than the caller.

        Raises AudioTooLarge or TooManyStoredBytes as soon as a limit is crossed, and DiskFull.
        """
        if self._size + len(chunk) > self._limit_bytes:
            raise AudioTooLarge(limit_bytes=self._limit_bytes)
        await self._reservation.cover(self._size + len(chunk))
        self._size += len(chunk)
        self._digest.update(chunk)
        self._gathered += chunk
        if len(self._gathered) >= self._part_bytes:
            await self._hand_over_gathered()

    async def commit(self) -> SpooledAudio:
        """Make the object durable: on a local disk, it is synced when this returns. Raises DiskFull."""
        await self._complete()
        if self._root is not None:
            async with asyncio.timeout(STORE_DEADLINE_SECONDS):
                await asyncio.to_thread(_sync, self._root / self._key)
        return self._keep()

    async def finish(self) -> SpooledAudio:
        """Keep the object for as long as this process lives: a power cut may lose it. Raises DiskFull."""
        await self._complete()
        return self._keep()

    async def _complete(self) -> None:
        await self._hand_over_gathered()
        await self._hand_over(None)
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            await self._upload

    def _keep(self) -> SpooledAudio:
        self._kept = True
        return SpooledAudio(self._key, self._size, self._digest.hexdigest())

    async def close(self) -> None:
        """Delete the object unless it was committed; nothing of it remains when this returns."""
        if self._kept:
            return
        self._aborted = True
        while not self._parts.empty():
            self._parts.get_nowait()
        self._parts.put_nowait(None)
        await asyncio.wait((self._upload,), timeout=STORE_DEADLINE_SECONDS)
        if not self._upload.cancel() and not self._upload.cancelled() and self._upload.exception() is None:
            # The upload was complete: the last step of the commit failed or was cancelled.
            await obstore.delete_async(self._store, self._key)
        await self._reservation.close()

    async def _hand_over_gathered(self) -> None:
        if self._gathered:
            await self._hand_over(bytes(self._gathered))
            self._gathered.clear()

    async def _hand_over(self, part: bytes | None) -> None:
        handing = asyncio.ensure_future(self._parts.put(part))
        try:
            async with asyncio.timeout(STORE_DEADLINE_SECONDS):
                await asyncio.wait((handing, self._upload), return_when=asyncio.FIRST_COMPLETED)
        finally:
            handing.cancel()
        if self._upload.done():
            await self._upload

    async def _put(self) -> None:
        # put_async, not open_writer_async: when its source raises, it aborts the upload and waits for that, also on
        # S3; obstore's writer object has no abort.
        part_bytes = self._part_bytes
        try:
            await obstore.put_async(
                self._store, self._key, self._source(), use_multipart=True, chunk_size=part_bytes, max_concurrency=1
            )
        except BaseError as error:
            raise _named(error) from error

    async def _source(self) -> AsyncGenerator[bytes]:
        while (part := await self._parts.get()) is not None:  # No deadline: a client may be slow; its reader has one.
            yield part
        if self._aborted:
            raise _AbortedError


class _AbortedError(Exception):
    """Ends the source of an upload that must not be kept."""


class Spool:
    """The stored audio of all jobs. A job's audio is named by its key; sizes count against the quota."""

    def __init__(self, store: ObjectStore, *, quota: Quota, new_key: Callable[[], str]) -> None:
        self._store = store
        self._root = _root_of(store)
        self._new_key = new_key
        self.quota = quota

    @asynccontextmanager
    async def writer(
        self, limit_bytes: int, *, model: Key = LOCAL, principal: str = "", expected_bytes: int | None = None
    ) -> AsyncGenerator[SpoolWriter]:
        """Open a new object of at most that many bytes; without a commit in the block, nothing of it remains.

        expected_bytes: about its size, if that is known. Raises DiskFull.
        """
        key = f"{_PREFIX}/{self._new_key()}"
        reservation = Reservation(self.quota, Upload(key, model, principal))
        try:
            # Before the object: `delete_orphans` of another process would delete what is recorded nowhere.
            await reservation.begin(None if expected_bytes is None else min(expected_bytes, limit_bytes))
        except BaseException:
            await reservation.close()
            raise
        writer = SpoolWriter(self._store, key, limit_bytes=limit_bytes, reservation=reservation)
        try:
            yield writer
        finally:
            await writer.close()

    async def delete(self, audio: StoredAudio) -> None:
        """Delete an object, which may be an upload that no job took; no effect if it is already gone."""
        # Checked first: deleting a missing object raises on a local store only.
        if await self._exists(audio.key):
            async with asyncio.timeout(STORE_DEADLINE_SECONDS):
                await obstore.delete_async(self._store, audio.key)
        await self.quota.release(audio.key)

    async def delete_orphans(self, known_keys: Callable[[], Awaitable[AbstractSet[str]]]) -> tuple[str, ...]:
        """Delete the objects that neither a job nor an upload owns, and return their keys.

        known_keys: reads the owned ones; see JobStore.known_audio. Raises StorageUnusable when the store cannot be
        read or written.
        """
        try:
            found = await self._found()
            # Read after the objects are listed: an object is recorded before it exists, so a new one is known now.
            known = await known_keys()
            orphans = [key for key in found if _STAGED.sub("", key) not in known]
            for key in orphans:
                await self._delete_orphan(key)
        except (BaseError, OSError) as error:
            raise _unusable(str(self._root or "the object store"), error) from error
        return tuple(orphans)

    async def _found(self) -> list[str]:
        keys: list[str] = []
        listed = obstore.list(self._store, prefix=_PREFIX)  # pyright: ignore[reportUnknownMemberType]
        async for batch in listed:
            keys.extend(entry["path"] for entry in batch)
        return keys if self._root is None else keys + await asyncio.to_thread(_staged, self._root)

    async def _delete_orphan(self, key: str) -> None:
        if self._root is not None and _STAGED.search(key):
            await asyncio.to_thread((self._root / key).unlink, missing_ok=True)
            return
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            await obstore.delete_async(self._store, key)

    def local_path(self, key: str) -> Path | None:
        """Return the file of an object, for the worker to open; None when the store is not on this machine."""
        return None if self._root is None else self._root / key

    async def fetch_to(self, path: Path, key: str) -> None:
        """Copy an object into a file. Raises FileNotFoundError when there is no such object, and DiskFull."""
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            found = await obstore.get_async(self._store, key)
        try:
            await _copy(found.stream(min_chunk_size=LOCAL_PART_BYTES), path)
        except OSError as error:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise _named(error) from error

    async def read(self, key: str) -> AsyncGenerator[bytes | memoryview]:
        """Yield an object's bytes in parts of about LOCAL_PART_BYTES. Raises FileNotFoundError, and OSError."""
        path = self.local_path(key)
        if path is not None:
            # obstore reads a local file 8 KiB at a time, which takes 20 times the processor time.
            async for part in _parts_of(path):
                yield part
            return
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            found = await obstore.get_async(self._store, key)
        chunks = found.stream(min_chunk_size=LOCAL_PART_BYTES)
        while (chunk := await _next_chunk(chunks)) is not None:
            yield memoryview(chunk)

    async def _exists(self, key: str) -> bool:
        try:
            async with asyncio.timeout(STORE_DEADLINE_SECONDS):
                await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        return True


def open_store(folder: Path, url: str | None = None) -> ObjectStore:
    """Return the object store of a URL (s3://bucket/prefix, ...), or a local one in a folder, which is created.

    The spool deletes unknown objects below the URL, so each server needs a prefix of its own. Raises
    StorageUnusable.
    """
    try:
        return LocalStore(folder, mkdir=True) if url is None else from_url(url)
    except (BaseError, OSError, ValueError) as error:
        raise _unusable(url or str(folder), error) from None


def _unusable(place: str, error: Exception) -> StorageUnusable:
    # The first line of the store's message is enough for users. A URL may hold a password.
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    return StorageUnusable(place=_SECRET.sub("//", place), reason=_SECRET.sub("//", reason))


def _root_of(store: ObjectStore) -> Path | None:
    return store.prefix if isinstance(store, LocalStore) else None


def _named(error: Exception) -> Exception:
    """Return DiskFull for the errors that mean it (ENOSPC, EDQUOT), else the error itself."""
    # obstore gives no errno, only Rust's message.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    full = full or re.search(r"\(os error (28|122)\)", str(error)) is not None
    return DiskFull() if full else error


async def _copy(chunks: BytesStream, path: Path) -> None:
    with await asyncio.to_thread(path.open, "wb") as target:
        while True:
            chunk = await _next_chunk(chunks)
            if chunk is None:
                return
            await asyncio.to_thread(target.write, chunk)


async def _parts_of(path: Path) -> AsyncGenerator[bytes]:
    with await asyncio.to_thread(path.open, "rb", buffering=0) as source:
        while part := await asyncio.to_thread(source.read, LOCAL_PART_BYTES):
            yield part


async def _next_chunk(chunks: BytesStream) -> bytes | None:
    async with asyncio.timeout(STORE_DEADLINE_SECONDS):
        return await anext(chunks, None)


def _sync(path: Path) -> None:
    # The local store does not sync: a job answered with 202 would lose its audio in a power cut.
    for target in (path, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise _named(error) from error
        finally:
            os.close(descriptor)


def _staged(root: Path) -> list[str]:
    # The store's listing hides these; only uploads in progress and killed servers leave them behind.
    return [str(path.relative_to(root)) for path in (root / _PREFIX).glob("*#*") if _STAGED.search(path.name)]
