"""What an obeying server remembers over a restart: orders by hand, the last work, the last loads. One small file."""

from __future__ import annotations

import asyncio
import os
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from whispermodel.spec import Spec
from whispermodel.status import Manual, Status

log = structlog.stdlib.get_logger(__name__)


class Record(BaseModel):
    """generation: counts the versions of the spec. digest: of the latest. manual: the last load or unload by hand,
    in force or not."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    generation: int = 0
    digest: str = ""
    manual: Manual | None = None
    status: Status = Status()


class Ledger(Protocol):
    """Where the record is kept."""

    def read(self) -> Record:
        """Return what was saved last."""
        ...

    async def save(self, record: Record) -> None:
        """Keep a record; it is there after a crash once this returns."""
        ...


class FileLedger:
    """Keeps the record in a file of the data folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saving = asyncio.Lock()

    def read(self) -> Record:
        """Return what was saved last; a file that cannot be read counts as none, and the log says so."""
        try:
            return Record.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError) as error:
            log.warning("model.record_unreadable", path=str(self._path), reason=str(error))
            return Record()

    async def save(self, record: Record) -> None:
        """Replace the file; a disk that takes it not is logged, and the server goes on."""
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
    """Return what tells two versions of a spec apart."""
    return sha256(spec.model_dump_json().encode()).hexdigest()
