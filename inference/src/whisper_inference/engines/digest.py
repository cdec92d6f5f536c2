"""SHA-256 digests of large files, each computed once: a file seen before is known by its size, time and inode."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)


def digest_of(path: Path, *, receipts: Path) -> str:
    """Return the file's SHA-256 in hexadecimal, from its receipt if the file is the one that was hashed before."""
    with path.open("rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        receipt = receipts / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"
        known = _read(receipt, identity)
        if known is not None:
            return known
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        unchanged = _identity(os.fstat(file.fileno())) == identity
    if unchanged:
        _write(receipt, {**identity, "sha256": digest})
    return digest


def _identity(stat: os.stat_result) -> dict[str, int]:
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "device": stat.st_dev}


def _read(receipt: Path, identity: dict[str, int]) -> str | None:
    try:
        fields = json.loads(receipt.read_bytes())
        return str(fields["sha256"]) if {key: fields[key] for key in identity} == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(receipt: Path, fields: dict[str, int | str]) -> None:
    try:
        receipt.parent.mkdir(parents=True, exist_ok=True)
        partial = receipt.with_name(f"{receipt.name}.{os.getpid()}")
        partial.write_text(json.dumps(fields))
        partial.replace(receipt)
    except OSError as error:  # a read-only cache works too: the next load hashes again
        _log.warning("digest not remembered receipt=%s error=%s", receipt, error)
