"""Computes the SHA-256 of large files once: a cache recognises an unchanged file by its size, time and inode."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)


def sha256_of(path: Path, *, cache: Path) -> str:
    """Return the file's SHA-256 in hexadecimal, from the cache folder if the file has not changed since."""
    with path.open("rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        entry = cache / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"
        cached = _read(entry, identity)
        if cached is not None:
            return cached
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        unchanged = _identity(os.fstat(file.fileno())) == identity
    if unchanged:
        _write(entry, {**identity, "sha256": digest})
    return digest


def _identity(stat: os.stat_result) -> dict[str, int]:
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "device": stat.st_dev}


def _read(entry: Path, identity: dict[str, int]) -> str | None:
    try:
        fields = json.loads(entry.read_bytes())
        return str(fields["sha256"]) if {key: fields[key] for key in identity} == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(entry: Path, fields: dict[str, int | str]) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.with_name(f"{entry.name}.{os.getpid()}")
        partial.write_text(json.dumps(fields))
        partial.replace(entry)
    except OSError as error:  # a read-only cache is no failure: the next load hashes again
        _log.warning("digest not cached entry=%s error=%s", entry, error)
