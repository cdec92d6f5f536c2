"""Stored audio: streamed into an object store under a byte cap, complete or not at all."""

from __future__ import annotations

import asyncio
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

from whisper_inference.errors import AudioTooLarge, StorageUnusable
from whisper_inference.jobs.audio_sinks import (
    LOCAL_PART_BYTES,
    STAGED,
    STORE_DEADLINE_SECONDS,
    FileSink,
    ObjectSink,
    Sink,
    named,
)
from whisper_inference.jobs.job import LOCAL, SpooledAudio, StoredAudio
from whisper_inference.jobs.quota import Quota, Reservation, Upload
from whispermodel.key import Key

if TYPE_CHECKING:
    from obstore import BytesStream

_PREFIX = "audio"

_SECRET = re.compile(r"//[^/@\s]*@")


class SpoolWriter:
    """One object being written; made by Spool.writer. One task at a time may use it."""

    def __init__(self, sink: Sink, key: str, *, limit_bytes: int, reservation: Reservation) -> None:
        self._sink = sink
        self._key = key
        self._limit_bytes = limit_bytes
        self._reservation = reservation
        self._digest = sha256()
        self._size = 0
        self._gathered = bytearray()
        self._kept = False

    async def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes; waits while the store is slower than the caller.

        Raises AudioTooLarge as soon as there is too much, TooManyStoredBytes, and DiskFull.
        """
        if self._size + len(chunk) > self._limit_bytes:
            raise AudioTooLarge(limit_bytes=self._limit_bytes)
        self._size += len(chunk)
        self._digest.update(chunk)
        self._gathered += chunk
        if len(self._gathered) >= self._sink.part_bytes:
            # Only here: what is gathered is not stored yet.
            await self._reservation.cover(self._size)
            await self._sink.write(self._take_gathered())

    async def commit(self) -> SpooledAudio:
        """Make the object durable: a job answered with 202 must keep its audio in a power cut. Raises DiskFull."""
        return await self._complete(durable=True)

    async def finish(self) -> SpooledAudio:
        """Keep the object for as long as this process lives: a power cut may lose it. Raises DiskFull."""
        return await self._complete(durable=False)

    async def close(self) -> None:
        """Delete the object unless it was committed; nothing of it remains when this returns."""
        if self._kept:
            return
        await self._sink.discard()
        await self._reservation.close()

    async def _complete(self, *, durable: bool) -> SpooledAudio:
        await self._reservation.cover(self._size)
        await self._sink.complete(self._take_gathered(), durable=durable)
        self._kept = True
        return SpooledAudio(self._key, self._size, self._digest.hexdigest())

    def _take_gathered(self) -> bytearray:
        part, self._gathered = self._gathered, bytearray()
        return part


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
        # Recorded before the object exists: `delete_orphans` of another process deletes what is recorded nowhere.
        reservation.begin(None if expected_bytes is None else min(expected_bytes, limit_bytes))
        sink = ObjectSink(self._store, key) if self._root is None else FileSink(self._root / key)
        writer = SpoolWriter(sink, key, limit_bytes=limit_bytes, reservation=reservation)
        try:
            yield writer
        finally:
            await writer.close()

    async def delete(self, audio: StoredAudio) -> None:
        """Delete an object, which may be an upload that no job took; no effect if it is already gone."""
        path = self.local_path(audio.key)
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            if path is not None:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            else:
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
            orphans = [key for key in found if STAGED.sub("", key) not in known]
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
        if self._root is not None and STAGED.search(key):
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
            raise named(error) from error

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


async def _copy(chunks: BytesStream, path: Path) -> None:
    with await asyncio.to_thread(path.open, "wb") as target:
        while True:
            chunk = await _next_chunk(chunks)
            if chunk is None:
                return
            await asyncio.to_thread(target.write, chunk)


async def _parts_of(path: Path) -> AsyncGenerator[bytes]:
    at = 0
    while part := await asyncio.to_thread(_part_at, path, at):
        yield part
        if len(part) < LOCAL_PART_BYTES:
            return
        at += len(part)


def _part_at(path: Path, at: int) -> bytes:
    with path.open("rb", buffering=0) as source:
        source.seek(at)
        return source.read(LOCAL_PART_BYTES)


async def _next_chunk(chunks: BytesStream) -> bytes | None:
    async with asyncio.timeout(STORE_DEADLINE_SECONDS):
        return await anext(chunks, None)


def _staged(root: Path) -> list[str]:
    # The store's listing hides these; only uploads in progress and killed servers leave them behind.
    return [str(path.relative_to(root)) for path in (root / _PREFIX).glob("*#*") if STAGED.search(path.name)]
