"""Stored audio: streamed into a store under a byte cap, complete or not at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from whisper_inference.errors import AudioTooLarge
from whisper_inference.jobs.audio_folder import AudioFolder
from whisper_inference.jobs.audio_store import PREFIX, STAGED, AudioStore, Sink, unusable
from whisper_inference.jobs.job import LOCAL, SpooledAudio, StoredAudio
from whisper_inference.jobs.quota import Quota, Reservation, Upload
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)


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

        Raises AudioTooLarge at the first byte over the limit, TooManyStoredBytes at the next part, and DiskFull.
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
        try:
            await self._sink.discard()
        except Exception:
            # The next start deletes it: it is an orphan.
            log.exception("spool.upload_not_deleted", key=self._key)
        finally:
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

    def __init__(self, store: AudioStore, *, quota: Quota, new_key: Callable[[], str]) -> None:
        self._store = store
        self._new_key = new_key
        self.quota = quota

    def local_path(self, key: str) -> Path | None:
        """Return the file of an object, for the worker to open; None when it is not on this machine."""
        return self._store.local_path(key)

    async def fetch_to(self, path: Path, key: str) -> None:
        """Copy an object into a file. Raises FileNotFoundError when there is no such object, and DiskFull."""
        await self._store.fetch_to(path, key)

    def read(self, key: str) -> AsyncGenerator[bytes | memoryview]:
        """Yield an object's bytes in parts of about PART_BYTES. Raises FileNotFoundError, and OSError."""
        return self._store.read(key)

    @asynccontextmanager
    async def writer(
        self, limit_bytes: int, *, model: Key = LOCAL, principal: str = "", expected_bytes: int | None = None
    ) -> AsyncGenerator[SpoolWriter]:
        """Open a new object of at most that many bytes; without a commit in the block, nothing of it remains.

        expected_bytes: about its size, if that is known. Raises DiskFull.
        """
        key = f"{PREFIX}/{self._new_key()}"
        reservation = Reservation(self.quota, Upload(key, model, principal))
        # Recorded before the object exists: `delete_orphans` of another process deletes what is recorded nowhere.
        reservation.begin(None if expected_bytes is None else min(expected_bytes, limit_bytes))
        writer = SpoolWriter(self._store.sink(key), key, limit_bytes=limit_bytes, reservation=reservation)
        try:
            yield writer
        finally:
            await writer.close()

    async def delete(self, audio: StoredAudio) -> None:
        """Delete an object, which may be an upload that no job took; no effect if it is already gone."""
        await self._store.delete(audio.key)
        await self.quota.release(audio.key)

    async def delete_orphans(self, known_keys: Callable[[], Awaitable[AbstractSet[str]]]) -> tuple[str, ...]:
        """Delete the objects that neither a job nor an upload owns, and return their keys.

        known_keys: reads the owned ones; see JobStore.known_audio. Raises StorageUnusable when the store cannot be
        read or written.
        """
        try:
            found = await self._store.keys()
            # Read after the objects are listed: an object is recorded before it exists, so a new one is known now.
            known = await known_keys()
            orphans = [key for key in found if key.removesuffix(STAGED) not in known]
            for key in orphans:
                await self._store.delete(key)
        except OSError as error:
            raise unusable(self._store.place, error) from error
        return tuple(orphans)


def open_store(folder: Path, url: str | None = None) -> AudioStore:
    """Return the store of a URL (s3://bucket/prefix, file:///existing/folder), or one in a folder, which is created.

    The spool deletes unknown objects below the URL, so each server needs a prefix of its own. Raises
    StorageUnusable.
    """
    try:
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
            return AudioFolder(folder)
        if urlsplit(url).scheme == "file":
            return AudioFolder(_folder_of(url))
    except (OSError, ValueError) as error:
        raise unusable(url or str(folder), error) from None
    # Imported only here: it takes 6 MB.
    from whisper_inference.jobs.audio_objects import open_objects

    return open_objects(url)


def _folder_of(url: str) -> Path:
    parsed = urlsplit(url)
    if parsed.netloc not in ("", "localhost") or not parsed.path.startswith("/") or parsed.query or parsed.fragment:
        raise ValueError("a folder is written as file:///path/to/folder")
    return Path(unquote(parsed.path, errors="strict"))
