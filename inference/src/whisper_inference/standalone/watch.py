"""The model file and its changes: edited in place, renamed over, or exchanged as a mounted ConfigMap is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from whisper_inference.settings import Settings
from whisper_inference.standalone.manifest import Manifest, ManifestError, read_manifest, settings_of

EVERY_SECONDS = 1.0
"""How often the file is checked: one stat(2) each, which also works where a mount reports no changes."""


@dataclass(frozen=True, slots=True)
class _Signature:
    """What changes when a file is written or exchanged; links are followed."""

    inode: int
    mtime_ns: int
    size: int


class FileWatch:
    """Reads a model file, and again whenever it has changed."""

    def __init__(self, path: Path, *, every_seconds: float = EVERY_SECONDS) -> None:
        self.path = path
        self._every_seconds = every_seconds
        self._known: _Signature | None = None
        self._seen: _Signature | None = None

    def read(self) -> Manifest:
        """Return what the file holds now. Raises ManifestError."""
        # Noted before the file is read: if it changes meanwhile, the next check sees it.
        self._known = self._seen = self._signature()
        return read_manifest(self.path)

    async def changes(self) -> AsyncGenerator[Manifest | ManifestError]:
        """Yield each later version, or why it cannot be used; never ends."""
        while True:
            await asyncio.sleep(self._every_seconds)
            # In a thread: a file system may block.
            found = await asyncio.to_thread(self.look)
            if found is not None:
                yield found

    def look(self) -> Manifest | ManifestError | None:
        """Return what the file holds if that has changed since it was last read, or why it cannot be used."""
        before, self._seen = self._seen, self._signature()
        if self._seen == self._known or not self._is_whole(before, self._seen):
            return None
        try:
            return self.read()
        except ManifestError as error:
            return error

    def _is_whole(self, before: _Signature | None, seen: _Signature | None) -> bool:
        """Return whether nobody is writing: the file was replaced, or two checks in a row saw the same.

        The first half of a YAML file is often valid YAML, with another meaning.
        """
        exchanged = seen is not None and self._known is not None and seen.inode != self._known.inode
        return exchanged or seen == before

    def _signature(self) -> _Signature | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return _Signature(stat.st_ino, stat.st_mtime_ns, stat.st_size)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file as the server found it at its start."""

    watch: FileWatch
    """Sees its later versions."""
    manifest: Manifest
    """Its content."""
    base: Settings
    """The server's own settings, some of which the file overrides."""

    @classmethod
    def read(cls, path: Path, base: Settings) -> ModelFile:
        """Read a file for the first time. Raises ManifestError."""
        watch = FileWatch(path)
        return cls(watch, watch.read(), base)

    @property
    def settings(self) -> Settings:
        """The server's settings with what the file overrides."""
        return settings_of(self.manifest.spec, self.base)
