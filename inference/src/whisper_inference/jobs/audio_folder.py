"""Audio in a folder. Not through obstore, which hands each part to threads of its own, and does not sync."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence, Sized
from pathlib import Path
from weakref import WeakSet

from whisper_inference.jobs.audio_store import LOCAL_PART_BYTES, PREFIX, STORE_DEADLINE_SECONDS, named

_GATHERED_BYTES = 2 << 20
"""What all uploads together gather before they write."""

_SMALLEST_PART_BYTES = 32 << 10


class AudioFolder:
    """A folder, which must exist. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sinks: WeakSet[FileSink] = WeakSet()
        (root / PREFIX).mkdir(exist_ok=True)

    @property
    def place(self) -> str:
        return str(self._root)

    def sink(self, key: str) -> FileSink:
        sink = FileSink(self._root / key, others=self._sinks)
        self._sinks.add(sink)
        return sink

    async def keys(self) -> Sequence[str]:
        return await asyncio.to_thread(self._keys)

    async def delete(self, key: str) -> None:
        async with asyncio.timeout(STORE_DEADLINE_SECONDS):
            await asyncio.to_thread((self._root / key).unlink, missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._root / key

    async def fetch_to(self, path: Path, key: str) -> None:
        try:
            async with asyncio.timeout(STORE_DEADLINE_SECONDS):
                await asyncio.to_thread(shutil.copyfile, self._root / key, path)
        except OSError as error:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise named(error) from error

    async def read(self, key: str) -> AsyncGenerator[bytes | memoryview]:
        at = 0
        while part := await asyncio.to_thread(self._part_at, key, at):
            yield part
            if len(part) < LOCAL_PART_BYTES:
                return
            at += len(part)

    def _keys(self) -> Sequence[str]:
        with os.scandir(self._root / PREFIX) as found:
            return [f"{PREFIX}/{entry.name}" for entry in found if entry.is_file(follow_symlinks=False)]

    def _part_at(self, key: str, at: int) -> bytes:
        with (self._root / key).open("rb", buffering=0) as source:
            source.seek(at)
            return source.read(LOCAL_PART_BYTES)


class FileSink:
    """A file; while it is being written, it has another name."""

    def __init__(self, path: Path, *, others: Sized) -> None:
        self._others = others
        self._path = path
        self._staged = path.with_name(f"{path.name}#1")
        self._descriptor: int | None = None
        self._working: asyncio.Future[None] | None = None

    @property
    def part_bytes(self) -> int:
        return max(_SMALLEST_PART_BYTES, min(LOCAL_PART_BYTES, _GATHERED_BYTES // max(1, len(self._others))))

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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
