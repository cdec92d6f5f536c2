"""What a server with a model file remembers across restarts: manual commands, the last work, the last loads."""

from __future__ import annotations

import asyncio
import os
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from whispermodel.planning.modes import ManualCommand
from whispermodel.spec import Spec
from whispermodel.status import Status

log = structlog.stdlib.get_logger(__name__)


class Record(BaseModel):
    """What is remembered of one WhisperModel."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    generation: int = 0
    """Counts the versions of the spec."""
    digest: str = ""
    """Of the latest version of the spec."""
    manual: ManualCommand | None = None
    """The last manual load or unload, whether it is still in force or not."""
    status: Status = Status()
    """The status that was written last."""
    loaded_bytes: int = 0
    """What the processes held when the model was last in memory; 0: unknown. Only a gateway with several models needs
    it."""


class RecordStore(Protocol):
    """Where the record is kept."""

    def read(self) -> Record:
        """Return what was saved last."""
        ...

    async def save(self, record: Record) -> None:
        """Keep a record; once this returns, it survives a crash."""
        ...


class RecordFile:
    """Keeps the record in a file of the data folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saving = asyncio.Lock()

    def read(self) -> Record:
        """Return what was saved last; an unreadable file is logged and counts as none."""
        try:
            return Record.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError) as error:
            log.warning("model.record_unreadable", path=str(self._path), reason=str(error))
            return Record()

    async def save(self, record: Record) -> None:
        """Replace the file; a failure is logged, and the server carries on."""
        async with self._saving:
            try:
                await asyncio.to_thread(self._write, record.model_dump_json(exclude_none=True))
            except OSError as error:
                log.warning("model.record_not_saved", path=str(self._path), reason=str(error))

    def _write(self, text: str) -> None:
        partial = self._path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


def digest_of(spec: Spec) -> str:
    """Return a digest that differs between two versions of a spec."""
    return sha256(spec.model_dump_json().encode()).hexdigest()
