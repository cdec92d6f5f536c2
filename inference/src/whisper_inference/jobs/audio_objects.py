"""Audio in an object store. The only module that imports obstore, 6 MB of which nothing else needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from whisper_inference.jobs.audio_store import PART_BYTES, PREFIX, STORE_DEADLINE_SECONDS, disk_full_or, unusable

if TYPE_CHECKING:
    from obstore import BytesStream

_MULTIPART_BYTES = 5 << 20
"""The minimum size of a part of an S3 multipart upload (Amazon S3 User Guide, multipart upload limits)."""


def open_objects(url: str) -> AudioObjects:
    """Return the audio at a URL (s3://bucket/prefix, ...). Raises StorageUnusable."""
    try:
        return AudioObjects(from_url(url))
    except (BaseError, OSError, ValueError) as error:
        raise unusable(url, error) from None


class AudioObjects:
    """The objects of a store."""

    place = "the object store"

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def sink(self, key: str) -> ObjectSink:
        return ObjectSink(self._store, key)

    async def keys(self) -> Sequence[str]:
        keys: list[str] = []
        listed = obstore.list(self._store, prefix=PREFIX)  # pyright: ignore[reportUnknownMemberType]
        try:
            async for batch in listed:
                keys.extend(entry["path"] for entry in batch)
        except BaseError as error:
            raise unusable(self.place, error) from error
        return keys

    async def delete(self, key: str) -> None:
        await _delete(self._store, key)

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002
        return None

    async def fetch_to(self, path: Path, key: str) -> None:
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            found = await obstore.get_async(self._store, key)
        try:
            await _copy(found.stream(min_chunk_size=PART_BYTES), path)
        except OSError as error:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise disk_full_or(error) from error

    async def read(self, key: str) -> AsyncGenerator[bytes | memoryview]:
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            found = await obstore.get_async(self._store, key)
        chunks = found.stream(min_chunk_size=PART_BYTES)
        while (chunk := await _next_chunk(chunks)) is not None:
            yield memoryview(chunk)


class ObjectSink:
    """An object of a store."""

    part_bytes = _MULTIPART_BYTES

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._aborted = False
        self._upload = asyncio.create_task(self._put())

    async def write(self, part: bytearray) -> None:
        """Hand a part over."""
        await self._hand_over(bytes(part))

    async def complete(self, part: bytearray, *, durable: bool) -> None:  # noqa: ARG002 - what a store took is durable
        """Hand the last part over and end the upload."""
        if part:
            await self._hand_over(bytes(part))
        await self._hand_over(None)
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            await self._upload

    async def discard(self) -> None:
        """Abort the upload; if it was complete, delete the object."""
        self._aborted = True
        while not self._parts.empty():
            self._parts.get_nowait()
        self._parts.put_nowait(None)
        await asyncio.wait((self._upload,), timeout=STORE_DEADLINE_SECONDS)
        if not self._upload.cancel() and not self._upload.cancelled() and self._upload.exception() is None:
            # The upload was complete: the last step of the commit failed or was cancelled.
            await _delete(self._store, self._key)

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
        try:
            await obstore.put_async(
                self._store,
                self._key,
                self._source(),
                use_multipart=True,
                chunk_size=self.part_bytes,
                max_concurrency=1,
            )
        except BaseError as error:
            raise disk_full_or(error) from error

    async def _source(self) -> AsyncGenerator[bytes]:
        while (part := await self._parts.get()) is not None:  # No deadline: a client may be slow; its reader has one.
            yield part
        if self._aborted:
            raise _AbortedError


class _AbortedError(Exception):
    """Ends the source of an upload that must not be kept."""


async def _delete(store: ObjectStore, key: str) -> None:
    try:
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            await obstore.delete_async(store, key)
    except FileNotFoundError:
        pass
    except BaseError as error:
        raise unusable(AudioObjects.place, error) from error


async def _copy(chunks: BytesStream, path: Path) -> None:
    with await asyncio.to_thread(path.open, "wb") as target:
        while (chunk := await _next_chunk(chunks)) is not None:
            await asyncio.to_thread(target.write, chunk)


async def _next_chunk(chunks: BytesStream) -> bytes | None:
    async with asyncio.timeout(STORE_DEADLINE_SECONDS):
        return await anext(chunks, None)
