"""Load images into the cluster, and build its pause image."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tools.clusters.base import ProviderFailed
from tools.clusters.local import machine
from tools.clusters.local.configuration import PAUSE_IMAGE
from tools.clusters.local.layout import CONTAINERD_SOCKET, RUN

_BUSYBOX = Path("/bin/busybox")
"""From the package busybox-static: a single static binary."""
_SLEEP = ["/bin/busybox", "sleep", "2147483647"]
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Image architectures by machine name."""
_ARCHIVE_LABEL = "whisper-e2e/archive"
_CTR = ["ctr", "--address", str(CONTAINERD_SOCKET), "--namespace", "k8s.io"]


def load(archives: Sequence[Path]) -> None:
    """Import docker or OCI archives that are not loaded yet. Raises ProviderFailed."""
    for archive in archives:
        if not archive.is_file():
            raise ProviderFailed(f"archive {archive} does not exist")
        if not _is_loaded(archive):
            _import(archive)


def tag(image: str, another: str) -> None:
    """Give an image an additional name."""
    machine.run([*_CTR, "images", "tag", "--force", _full(image), _full(another)])


def load_pause() -> None:
    """Build and import the pause image, because no registry is reachable."""
    if PAUSE_IMAGE not in machine.run([*_CTR, "images", "list", "--quiet"]).split():
        archive = RUN / "pause.tar"
        archive.write_bytes(_pause_archive())
        load([archive])


def runtime_is_ready() -> bool:
    """Return whether containerd responds."""
    try:
        machine.run([*_CTR, "version"])
    except ProviderFailed:
        return False
    return True


def _import(archive: Path) -> None:
    names = [_full(name) for name in _names(archive)]
    _remove(names)
    machine.run([*_CTR, "images", "import", "--digests=false", str(archive.resolve())])
    for name in names:
        machine.run([*_CTR, "images", "label", name, f"{_ARCHIVE_LABEL}={archive.name}"])


def _remove(names: Sequence[str]) -> None:
    """Remove images under all their names: the runtime also names an image by digest, which would keep it alive."""
    rows = [row.split() for row in machine.run([*_CTR, "images", "list"]).splitlines()[1:]]
    old = {digest for name, _, digest, *_ in rows if name in names}
    if doomed := [name for name, _, digest, *_ in rows if digest in old]:
        machine.run([*_CTR, "images", "remove", "--sync", *doomed])


def _is_loaded(archive: Path) -> bool:
    """Return whether all images of an archive were loaded from an archive of that name, which includes a hash."""
    listed = machine.run([*_CTR, "images", "list", f'labels."{_ARCHIVE_LABEL}"=={archive.name}', "--quiet"])
    names = _names(archive)
    return bool(names) and {_full(name) for name in names} <= set(listed.split())


def _names(archive: Path) -> list[str]:
    """Return the image names in a docker archive; none for an OCI archive, which is therefore always imported."""
    with tarfile.open(archive) as packed:
        try:
            manifest = packed.extractfile("manifest.json")
        except KeyError:
            return []
        return [name for image in json.load(manifest) for name in image["RepoTags"]] if manifest else []


def _full(image: str) -> str:
    """Return the full name of an image, as used by containerd and the kubelet."""
    return image if "/" in image else f"docker.io/library/{image}"


def _pause_archive() -> bytes:
    """Return a docker archive (the format of `docker save`) with one layer that contains only busybox."""
    layer = _tar({"bin/busybox": _BUSYBOX.read_bytes()})
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": _SLEEP},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    return _tar(
        {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
