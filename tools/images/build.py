"""Build images, and export them as archives for clusters without a registry."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tools.images.builders import Builder, Order, find_builder
from tools.images.catalog import IMAGES, ROOT, Image, fingerprint, version
from tools.images.errors import ImagesError
from tools.images.index import index_secrets


def build(names: Iterable[str], into: Path | None = None, *, base: str | None = None) -> dict[str, Path]:
    """Build images and export each as a docker-archive NAME-FINGERPRINT.tar; return the archives by name.

    An existing archive is reused, and older archives of an image are removed. into: defaults to archives_folder().
    base: the image to build on; defaults to the one in the Dockerfiles. Raises ImagesError.
    """
    folder = into or archives_folder(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    archives = {name: folder / _archive_name(name, base=base) for name in names}
    for name, archive in archives.items():
        if not archive.exists():
            _make(name, archive, base=base)
    return archives


def archives_folder(environ: Mapping[str, str]) -> Path:
    """Return the cache folder for archives (XDG Base Directory Specification 0.8: relative paths are ignored)."""
    configured = Path(environ.get("XDG_CACHE_HOME", ""))
    cache = configured if configured.is_absolute() else Path("~/.cache").expanduser()
    return cache / "whisper-operator" / "images"


def build_image(name: str, builder: Builder, *, base: str | None) -> None:
    """Build one image into the builder's local store. Raises ImagesError."""
    with _locked():
        _build(name, builder, base=base)


def _make(name: str, archive: Path, *, base: str | None) -> None:
    builder = find_builder()
    with _locked():
        # Another process may have created it while this one waited for the lock.
        if not archive.exists():
            _build(name, builder, base=base)
            if archive.name != _archive_name(name, base=base):
                raise ImagesError(f"The sources of '{name}' changed during the build: build it again.")
            _export(name, archive, builder=builder)


def _archive_name(name: str, *, base: str | None) -> str:
    return f"{name}-{fingerprint(_image(name), base=base)}.tar"


@contextmanager
def _locked() -> Iterator[None]:
    """Wait until no other checkout of this user is building: all use the same image names in one store."""
    lock = archives_folder(os.environ).with_name("images.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(name: str, builder: Builder, *, base: str | None) -> None:
    image = _image(name)
    arguments = {**image.arguments, "VERSION": version(), "REVISION": _revision()}
    if base:
        arguments["BASE"] = base
    with tempfile.TemporaryDirectory(prefix="whisper-images-") as folder:
        secrets = index_secrets(os.environ, Path(folder))
        builder.build(Order(image.reference, image.path, ROOT, image.target, arguments, secrets))


def _image(name: str) -> Image:
    if name not in IMAGES:
        raise ImagesError(f"Unknown image '{name}': choose one of {', '.join(IMAGES)}.")
    return IMAGES[name]


def _revision() -> str:
    """Return the commit of the sources, or `unknown` outside a Git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _export(name: str, archive: Path, *, builder: Builder) -> None:
    older = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}\.tar")
    for other in archive.parent.iterdir():
        if older.fullmatch(other.name):
            other.unlink(missing_ok=True)
    # Rename after writing, so that an archive with its final name is complete.
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{name}-") as scratch:
        made = Path(scratch) / archive.name
        builder.export(IMAGES[name].reference, made)
        made.rename(archive)
