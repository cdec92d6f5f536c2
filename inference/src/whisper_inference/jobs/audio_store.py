"""What the spool needs of the place where audio is stored; `audio_folder` and `audio_objects` are such places."""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

from whisper_inference.errors import DiskFull, StorageUnusable

PREFIX = "audio"
"""What the keys of audio begin with: the place may hold other objects."""

PART_BYTES = 1 << 20
"""How much is read or written at a time; folders write less while many uploads arrive."""

STAGED = "#1"
"""Ends the key of a file that is still being written; object_store, which wrote them before, named them alike."""

STORE_DEADLINE_SECONDS = 60.0
"""For one operation, a part or a commit; longer means that the disk or the network is stuck."""


_SECRET = re.compile(r"//[^/@\s]*@")


class Sink(Protocol):
    """Takes the bytes of one upload. One task at a time may use it."""

    @property
    def part_bytes(self) -> int:
        """How many bytes to gather for a part; at most three parts are in memory."""
        ...

    async def write(self, part: bytearray) -> None:
        """Add a part, which the caller does not use any more; waits while the store is slower. Raises DiskFull."""
        ...

    async def complete(self, part: bytearray, *, durable: bool) -> None:
        """Add the last part and make the object appear; durable: also after a power cut. Raises DiskFull."""
        ...

    async def discard(self) -> None:
        """Delete whatever there is of the object. Raises OSError when it cannot be deleted: it is an orphan then."""
        ...


class AudioStore(Protocol):
    """Where audio is stored, by keys that begin with PREFIX.

    Methods raise OSError, and StorageUnusable for the errors of an object store.
    """

    @property
    def place(self) -> str:
        """What to call it in messages."""
        ...

    def sink(self, key: str) -> Sink:
        """Return where to write a new object."""
        ...

    async def keys(self) -> Sequence[str]:
        """Return the keys of all audio, also of what is still being written (with the suffix STAGED)."""
        ...

    async def delete(self, key: str) -> None:
        """Delete an object; no effect if there is none."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Return the file of an object, for the worker to open; None when it is not on this machine."""
        ...

    async def fetch_to(self, path: Path, key: str) -> None:
        """Copy an object into a file. Raises FileNotFoundError when there is no such object, and DiskFull."""
        ...

    def read(self, key: str) -> AsyncGenerator[bytes | memoryview]:
        """Yield an object's bytes in parts of about PART_BYTES. Raises FileNotFoundError."""
        ...


def disk_full_or(error: Exception) -> Exception:
    """Return DiskFull for the errors that mean it (ENOSPC, EDQUOT), else the error itself."""
    # obstore gives no errno, only Rust's message.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    full = full or re.search(r"\(os error (28|122)\)", str(error)) is not None
    return DiskFull() if full else error


def unusable(place: str, error: Exception) -> StorageUnusable:
    """Return the error for people about a store that cannot be used; place: its URL or folder."""
    # The first line of the store's message is enough. A URL may hold a password.
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    return StorageUnusable(place=_SECRET.sub("//", place), reason=_SECRET.sub("//", reason))
