"""One large file from a web server: resumed, verified while it streams, put in place atomically."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from tqdm import tqdm

from whisper_inference.errors import DownloadFailed

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 2**20
_LOG_EVERY_BYTES = 100 * 2**20
_RANGE_NOT_SATISFIABLE = 416


class _Refused(Exception):
    """The server's answer will not change by asking again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try, in seconds.

    socket: for connecting and for each read. first_byte: no further attempt is begun after it while nothing has come,
    so that a machine without a network learns it soon. pauses: before each further attempt in a row without progress.
    """

    socket: float = 5.0
    first_byte: float = 5.0
    pauses: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to fetch. name: of the model, for messages; sha256: hexadecimal."""

    name: str
    url: str
    sha256: str


def download(
    remote: Remote, target: Path, *, patience: Patience | None = None, sleep: Callable[[float], None] = time.sleep
) -> Path:
    """Fetch a file to target and return it; what an earlier attempt left in target's .part file is resumed.

    Several processes may call it at once: one fetches, the others wait and find the file. Raises DownloadFailed.
    """
    patience = patience or Patience()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        with locked(target.with_name(f"{target.name}.lock")):
            if target.exists() and _digest(target).hexdigest() == remote.sha256:
                return target
            _fetch_patiently(remote, part, patience=patience, sleep=sleep)
            part.replace(target)
    except (OSError, http.client.HTTPException, _Refused) as error:
        raise DownloadFailed(model=remote.name, url=remote.url, reason=_words_of(error)) from error
    return target


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock between processes; the kernel releases it when the holder dies, so no deadline."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_patiently(remote: Remote, part: Path, *, patience: Patience, sleep: Callable[[float], None]) -> None:
    begun, failures = time.monotonic(), 0
    while True:
        before = _size(part)
        try:
            return _fetch(remote, part, patience=patience)
        except (OSError, http.client.HTTPException) as error:
            progressed = _size(part) > before
            failures = 1 if progressed else failures + 1
            hopeless = _size(part) == 0 and time.monotonic() - begun > patience.first_byte
            if hopeless or failures > len(patience.pauses) or isinstance(error, PermissionError):
                raise
            _log.warning("download interrupted model=%s error=%s attempt=%d", remote.name, _words_of(error), failures)
            sleep(patience.pauses[failures - 1])


def _fetch(remote: Remote, part: Path, *, patience: Patience) -> None:
    """Make one attempt: ask for what is missing, append it, verify the whole."""
    digest = _digest(part) if part.exists() else hashlib.sha256()
    held = _size(part)
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={held}-"} if held else {})
    try:
        with urllib.request.urlopen(request, timeout=patience.socket) as answer:
            if held and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                digest, held = hashlib.sha256(), 0  # the server sends the whole file
            with part.open("ab" if held else "wb") as file:
                _receive(answer, file, digest=digest, name=remote.name, held=held)
    except urllib.error.HTTPError as error:
        if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code != _RANGE_NOT_SATISFIABLE:
            raise _Refused(f"the server answered {error.code} {error.reason}") from error
        if error.code != _RANGE_NOT_SATISFIABLE:
            raise
    if digest.hexdigest() != remote.sha256:
        part.unlink()
        raise OSError("what came has another SHA-256 than the official file")


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def _receive(answer: http.client.HTTPResponse, file: BinaryIO, *, digest: _Digest, name: str, held: int) -> None:
    length = answer.length
    total = None if length is None else held + length
    expected, got = total, held
    with _progress(name, total=total, held=held) as advance:
        while chunk := answer.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            got += len(chunk)
            advance(len(chunk))
    if expected is not None and got < expected:
        raise ConnectionError(f"the connection ended after {got} of {expected} bytes")


@contextmanager
def _progress(name: str, *, total: int | None, held: int) -> Generator[Callable[[int], object]]:
    if sys.stderr.isatty():
        with tqdm(total=total, initial=held, unit="B", unit_scale=True, unit_divisor=1024, desc=name) as bar:
            yield bar.update
        return
    got = held

    def log(count: int) -> None:
        nonlocal got
        if got // _LOG_EVERY_BYTES != (got := got + count) // _LOG_EVERY_BYTES:
            _log.info("downloading model=%s bytes=%d of=%s", name, got, total)

    _log.info("download begins model=%s bytes=%d of=%s", name, held, total)
    yield log


def _digest(path: Path) -> _Digest:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words_of(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
