"""Audio in a folder. Not through obstore, which hands each part to threads of its own, and does not sync."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar
from weakref import WeakSet

from whisper_inference.jobs.audio_store import PART_BYTES, PREFIX, STAGED, STORE_DEADLINE_SECONDS, disk_full_or

ResultT = TypeVar("ResultT")

_THREADS = 6

_GATHERED_BYTES = 2 << 20
"""What all uploads together gather before they write."""

_SMALLEST_PART_BYTES = 32 << 10


class AudioFolder:
    """A folder, which must exist. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / PREFIX).mkdir(exist_ok=True)
        self._sinks: WeakSet[FileSink] = WeakSet()
        # Of its own: a disk that hangs must not hold up what else runs in threads.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="audio")

    @property
    def place(self) -> str:
        return str(self._root)

    def sink(self, key: str) -> FileSink:
        sink = FileSink(self._root / key, open_sinks=self._sinks, threads=self._threads)
        self._sinks.add(sink)
        return sink

    async def keys(self) -> Sequence[str]:
        return await self._run(self._keys)

    async def delete(self, key: str) -> None:
        await self._run(lambda: (self._root / key).unlink(missing_ok=True))

    def local_path(self, key: str) -> Path | None:
        return self._root / key

    async def fetch_to(self, path: Path, key: str) -> None:
        try:
            await self._run(lambda: shutil.copyfile(self._root / key, path))
        except OSError as error:
            await self._run(lambda: path.unlink(missing_ok=True))
            raise disk_full_or(error) from error

    async def read(self, key: str) -> AsyncGenerator[bytes | memoryview]:
        at, ended = 0, False
        while not ended:
            part, ended = await self._run(partial(self._part_at, key, at))
            if part:
                yield part
            at += len(part)

    async def _run(self, work: Callable[[], ResultT]) -> ResultT:
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _keys(self) -> Sequence[str]:
        with os.scandir(self._root / PREFIX) as found:
            return [f"{PREFIX}/{entry.name}" for entry in found if entry.is_file(follow_symlinks=False)]

    def _part_at(self, key: str, at: int) -> tuple[bytes, bool]:
        """Return the bytes from a position on, and whether the file ends there: a read may return less than asked."""
        with (self._root / key).open("rb", buffering=0) as source:
            size = os.fstat(source.fileno()).st_size
            source.seek(at)
            part = source.read(PART_BYTES)
        if not part and at < size:
            raise OSError(errno.EIO, f"{key} ends after {at} of {size} bytes")
        return part, at + len(part) >= size


class FileSink:
    """A file; while it is being written, it has another name."""

    def __init__(self, path: Path, *, open_sinks: Sized, threads: ThreadPoolExecutor) -> None:
        self._path = path
        self._staged = path.with_name(path.name + STAGED)
        self._open_sinks = open_sinks
        self._threads = threads
        self._working: asyncio.Future[None] | None = None
        # Guards what follows: after the deadline of an operation that hangs, the next one is in another thread.
        self._lock = Lock()
        self._descriptor: int | None = None
        self._discarded = False

    @property
    def part_bytes(self) -> int:
        return max(_SMALLEST_PART_BYTES, min(PART_BYTES, _GATHERED_BYTES // max(1, len(self._open_sinks))))

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
        """Delete the file under both names, after the operation in progress; none begins any more."""
        self._discarded = True
        if self._working is not None:
            # An upload's own error was raised already, or its client is gone.
            self._working.add_done_callback(lambda done: done.exception())
        self._start(self._delete)
        await self._idle()

    def _start(self, work: Callable[[], None]) -> None:
        def alone() -> None:
            with self._lock:
                work()

        self._working = asyncio.get_running_loop().run_in_executor(self._threads, alone)

    async def _idle(self) -> None:
        """Wait until the last operation has ended, and raise what it raised."""
        if self._working is None:
            return
        try:
            async with asyncio.timeout(STORE_DEADLINE_SECONDS):
                # Shielded: a thread cannot be stopped.
                await asyncio.shield(self._working)
        except OSError as error:
            raise disk_full_or(error) from error

    def _append(self, part: bytearray) -> None:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(self._opened(), rest) :]

    def _opened(self) -> int:
        if self._discarded:
            raise OSError(errno.ECANCELED, "the upload was discarded")
        if self._descriptor is None:
            self._descriptor = os.open(self._staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return self._descriptor

    def _publish(self, part: bytearray, *, durable: bool) -> None:
        self._append(part)
        descriptor = self._opened()
        if durable:
            os.fsync(descriptor)
        self._close()
        self._staged.rename(self._path)
        if durable:
            _sync_folder(self._path.parent)

    def _close(self) -> None:
        # Forgotten first: after an error the number is free, and may be another file's when it is closed again.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _delete(self) -> None:
        try:
            self._close()
        finally:
            for path in (self._staged, self._path):
                path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
