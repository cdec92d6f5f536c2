"""Where the bytes of one upload go: into a file, or into an object store; complete or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from whisper_inference.errors import DiskFull

LOCAL_PART_BYTES = 1 << 20
"""What is gathered before it is written; at most three parts per upload are in memory."""

REMOTE_PART_BYTES = 5 << 20
"""The minimum size of a part of an S3 multipart upload (Amazon S3 User Guide, multipart upload limits)."""

STORE_DEADLINE_SECONDS = 60.0
"""For one operation of the store, a part or a commit; longer means that the disk or the network is stuck."""

STAGED = re.compile(r"#\d+$")
"""How a file that is still being written is named, here and by obstore (local.rs: staged_upload_path)."""


class Sink(Protocol):
    """Takes the bytes of one upload. One task at a time may use it."""

    @property
    def part_bytes(self) -> int:
        """How many bytes to gather for a part."""
        ...

    async def write(self, part: bytearray) -> None:
        """Add a part, which the caller does not use any more; waits while the store is slower. Raises DiskFull."""
        ...

    async def complete(self, part: bytearray, *, durable: bool) -> None:
        """Add the last part and make the object appear; durable: also after a power cut. Raises DiskFull."""
        ...

    async def discard(self) -> None:
        """Delete whatever there is of the object. No effect on what cannot be deleted: it is an orphan then."""
        ...


class FileSink:
    """A file. Not written by obstore, which hands each part to threads of its own, and does not sync."""

    part_bytes = LOCAL_PART_BYTES

    def __init__(self, path: Path) -> None:
        self._path = path
        self._staged = path.with_name(f"{path.name}#1")
        self._descriptor: int | None = None
        self._working: asyncio.Future[None] | None = None

    async def write(self, part: bytearray) -> None:
        """Write a part while the next one is gathered."""
        await self._idle()
        self._start(lambda: self._append(part))

    async def complete(self, part: bytearray, *, durable: bool) -> None:
        """Write the last part and give the file its name; durable: sync it and its folder."""
        await self._idle()
        self._start(lambda: self._publish(part, durable=durable))
        await self._idle()

    async def discard(self) -> None:
        """Delete the file under both names."""
        if self._working is not None:
            await asyncio.wait((self._working,), timeout=STORE_DEADLINE_SECONDS)
            # Why the upload fails, if it does, was raised or does not matter any more.
            self._working.add_done_callback(lambda done: done.exception())
        self._start(self._delete)
        await self._idle()

    def _start(self, work: Callable[[], None]) -> None:
        self._working = asyncio.get_running_loop().run_in_executor(None, work)

    async def _idle(self) -> None:
        """Wait until the last operation has ended, and raise what it raised."""
        if self._working is None:
            return
        try:
            async with asyncio.timeout(STORE_DEADLINE_SECONDS):
                # Shielded: a thread cannot be stopped, and `discard` waits for it.
                await asyncio.shield(self._working)
        except OSError as error:
            raise named(error) from error

    def _append(self, part: bytearray) -> None:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(self._opened(), rest) :]

    def _opened(self) -> int:
        if self._descriptor is None:
            self._staged.parent.mkdir(exist_ok=True)
            self._descriptor = os.open(self._staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return self._descriptor

    def _publish(self, part: bytearray, *, durable: bool) -> None:
        self._append(part)
        if durable:
            os.fsync(self._opened())
        os.close(self._opened())
        self._descriptor = None
        self._staged.rename(self._path)
        if durable:
            _sync_folder(self._path.parent)

    def _delete(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        for path in (self._staged, self._path):
            path.unlink(missing_ok=True)


class ObjectSink:
    """An object of a store."""

    part_bytes = REMOTE_PART_BYTES

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
            await obstore.delete_async(self._store, self._key)

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
            raise named(error) from error

    async def _source(self) -> AsyncGenerator[bytes]:
        while (part := await self._parts.get()) is not None:  # No deadline: a client may be slow; its reader has one.
            yield part
        if self._aborted:
            raise _AbortedError


class _AbortedError(Exception):
    """Ends the source of an upload that must not be kept."""


def named(error: Exception) -> Exception:
    """Return DiskFull for the errors that mean it (ENOSPC, EDQUOT), else the error itself."""
    # obstore gives no errno, only Rust's message.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    full = full or re.search(r"\(os error (28|122)\)", str(error)) is not None
    return DiskFull() if full else error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
