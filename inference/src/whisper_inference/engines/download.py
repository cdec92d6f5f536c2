"""Downloads one large file: resumed, verified while it streams, moved into place atomically."""

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


class _NotRetryable(Exception):
    """The server refused the request, and would refuse it again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a download times out and is retried, in seconds.

    socket_timeout: for connecting and for each read. first_byte_timeout: no retry after it while no byte has arrived,
    so that a machine without a network fails fast. delays: before each retry in a row that follows no progress.
    """

    socket_timeout: float = 5.0
    first_byte_timeout: float = 5.0
    delays: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download. model: its name, for messages; sha256: hexadecimal."""

    model: str
    url: str
    sha256: str


def download(
    remote: RemoteFile,
    target: Path,
    *,
    retries: RetryPolicy | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download a file to target and return it, resuming what an earlier attempt left in target's .part file.

    Several processes may call it at once: one downloads, the others wait and find the file. Raises DownloadFailed.
    """
    retries = retries or RetryPolicy()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        with exclusive_lock(target.with_name(f"{target.name}.lock")):
            if target.exists() and _digest(target).hexdigest() == remote.sha256:
                return target
            _fetch_with_retries(remote, part, retries=retries, sleep=sleep)
            part.replace(target)
    except (OSError, http.client.HTTPException, _NotRetryable) as error:
        raise DownloadFailed(model=remote.model, url=remote.url, reason=_error_text(error)) from error
    return target


@contextmanager
def exclusive_lock(path: Path) -> Generator[None]:
    """Hold an exclusive lock between processes; no timeout, as the kernel releases it when the holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_with_retries(
    remote: RemoteFile, part: Path, *, retries: RetryPolicy, sleep: Callable[[float], None]
) -> None:
    started, failures = time.monotonic(), 0
    while True:
        before = _size(part)
        try:
            return _fetch(remote, part, retries=retries)
        except (OSError, http.client.HTTPException) as error:
            progressed = _size(part) > before
            failures = 1 if progressed else failures + 1
            unreachable = _size(part) == 0 and time.monotonic() - started > retries.first_byte_timeout
            if unreachable or failures > len(retries.delays) or isinstance(error, PermissionError):
                raise
            _log.warning(
                "download interrupted model=%s error=%s attempt=%d", remote.model, _error_text(error), failures
            )
            sleep(retries.delays[failures - 1])


def _fetch(remote: RemoteFile, part: Path, *, retries: RetryPolicy) -> None:
    """Make one attempt: request what is missing, append it, verify the whole file."""
    digest = _digest(part) if part.exists() else hashlib.sha256()
    offset = _size(part)
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        with urllib.request.urlopen(request, timeout=retries.socket_timeout) as response:
            if offset and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                digest, offset = hashlib.sha256(), 0  # the server sends the whole file
            with part.open("ab" if offset else "wb") as file:
                _receive(response, file, digest=digest, model=remote.model, offset=offset)
    except urllib.error.HTTPError as error:
        if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code != _RANGE_NOT_SATISFIABLE:
            raise _NotRetryable(f"the server responded {error.code} {error.reason}") from error
        if error.code != _RANGE_NOT_SATISFIABLE:
            raise
    if digest.hexdigest() != remote.sha256:
        part.unlink()
        raise OSError("the SHA-256 of the download does not match the official file's")


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def _receive(response: http.client.HTTPResponse, file: BinaryIO, *, digest: _Digest, model: str, offset: int) -> None:
    length = response.length
    total = None if length is None else offset + length
    received = offset
    with _progress(model, total=total, offset=offset) as advance:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            advance(len(chunk))
    if total is not None and received < total:
        raise ConnectionError(f"the connection was closed after {received} of {total} bytes")


@contextmanager
def _progress(model: str, *, total: int | None, offset: int) -> Generator[Callable[[int], object]]:
    if sys.stderr.isatty():
        with tqdm(total=total, initial=offset, unit="B", unit_scale=True, unit_divisor=1024, desc=model) as bar:
            yield bar.update
        return
    received = offset

    def log(count: int) -> None:
        nonlocal received
        if received // _LOG_EVERY_BYTES != (received := received + count) // _LOG_EVERY_BYTES:
            _log.info("downloading model=%s bytes=%d of=%s", model, received, total)

    _log.info("download started model=%s bytes=%d of=%s", model, offset, total)
    yield log


def _digest(path: Path) -> _Digest:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _error_text(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
