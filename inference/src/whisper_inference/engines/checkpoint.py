"""Finds a model's checkpoint file and verifies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from whisper_inference.engines.base import ModelSpec
from whisper_inference.engines.digest import sha256_of
from whisper_inference.engines.download import RemoteFile, RetryPolicy, download
from whisper_inference.errors import CheckpointDamaged, CheckpointMissing, LoadFailed


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint file. sha256: hexadecimal."""

    path: Path
    sha256: str


def find_checkpoint(spec: ModelSpec, *, urls: Mapping[str, str], retries: RetryPolicy | None = None) -> Checkpoint:
    """Return the verified checkpoint of a spec; an official one is downloaded into the spec's cache_dir first.

    urls: official address by size; the last folder of each is the file's SHA-256. Raises CheckpointMissing,
    CheckpointDamaged, DownloadFailed, or LoadFailed for a size without an official checkpoint.
    """
    digests = digest_cache(spec)
    if spec.path is not None:
        return _local_checkpoint(Path(spec.path), expected=spec.sha256, digests=digests)
    if spec.size not in urls:
        raise LoadFailed(
            cause=f"there is no official checkpoint of '{spec.size}'; choose one of: {', '.join(sorted(urls))}."
        )
    url = urls[spec.size]
    remote = RemoteFile(model=spec.size, url=url, sha256=url.split("/")[-2])
    target = Path(spec.cache_dir) / url.rsplit("/", 1)[-1]
    if not target.is_file() or sha256_of(target, cache=digests) != remote.sha256:
        download(remote, target, retries=retries)
    return Checkpoint(target, remote.sha256)


def digest_cache(spec: ModelSpec) -> Path:
    """Return the folder that caches the digests of files (digest.py)."""
    return Path(spec.cache_dir) / "verified"


def _local_checkpoint(path: Path, *, expected: str | None, digests: Path) -> Checkpoint:
    if not path.is_file():
        hint = (
            "it is a folder; openai-whisper needs a .pt file."
            if path.is_dir()
            else "put the file there, or correct the path."
        )
        raise CheckpointMissing(path=str(path), hint=hint)
    try:
        digest = sha256_of(path, cache=digests)
    except OSError as error:
        raise CheckpointMissing(path=str(path), hint=f"it cannot be read: {error.strerror}.") from error
    if expected is not None and digest != expected.lower():
        raise CheckpointDamaged(path=str(path), reason=f"its SHA-256 is {digest}, expected {expected.lower()}.")
    return Checkpoint(path, digest)
