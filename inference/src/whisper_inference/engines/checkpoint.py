"""Which checkpoint file a model comes from, and that it is the one that was meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from whisper_inference.engines.base import ModelSpec
from whisper_inference.engines.digest import digest_of
from whisper_inference.engines.download import Patience, Remote, download
from whisper_inference.errors import CheckpointDamaged, CheckpointMissing, LoadFailed


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint file that was verified. sha256: hexadecimal."""

    path: Path
    sha256: str


def source_of(spec: ModelSpec, *, urls: Mapping[str, str], patience: Patience | None = None) -> Source:
    """Return the verified checkpoint of a spec, downloaded into its cache_dir if it is the official one.

    urls: official address by size; the last folder of each is the file's SHA-256. Raises CheckpointMissing,
    CheckpointDamaged, DownloadFailed, or LoadFailed for a size that has no official checkpoint.
    """
    receipts = receipts_in(spec)
    if spec.path is not None:
        return _local(Path(spec.path), expected=spec.sha256, receipts=receipts)
    if spec.size not in urls:
        raise LoadFailed(
            cause=f"there is no official checkpoint of '{spec.size}'; known are {', '.join(sorted(urls))}."
        )
    url = urls[spec.size]
    remote = Remote(name=spec.size, url=url, sha256=url.split("/")[-2])
    target = Path(spec.cache_dir) / url.rsplit("/", 1)[-1]
    if not target.is_file() or digest_of(target, receipts=receipts) != remote.sha256:
        download(remote, target, patience=patience)
    return Source(target, remote.sha256)


def receipts_in(spec: ModelSpec) -> Path:
    """Return the folder that remembers which files were hashed."""
    return Path(spec.cache_dir) / "verified"


def _local(path: Path, *, expected: str | None, receipts: Path) -> Source:
    if not path.is_file():
        hint = (
            "it is a folder; openai-whisper needs a .pt file."
            if path.is_dir()
            else "put the file there, or correct the path."
        )
        raise CheckpointMissing(path=str(path), hint=hint)
    try:
        digest = digest_of(path, receipts=receipts)
    except OSError as error:
        raise CheckpointMissing(path=str(path), hint=f"it cannot be read: {error.strerror}.") from error
    if expected is not None and digest != expected.lower():
        raise CheckpointDamaged(path=str(path), reason=f"its SHA-256 is {digest}, {expected.lower()} was expected.")
    return Source(path, digest)
