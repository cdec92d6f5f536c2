"""Sizes of images on top of their common base."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, cast

from tools.images.catalog import IMAGES
from tools.images.errors import ImagesError


def archives_in(folder: Path) -> dict[str, Path]:
    """Return the archives in a folder that `build` exported, by image name."""
    found = {path: re.fullmatch(r"(.+)-[0-9a-f]{12}\.tar", path.name) for path in sorted(folder.glob("*.tar"))}
    return {match[1]: path for path, match in found.items() if match and match[1] in IMAGES}


def sizes_over_base(archives: Mapping[str, Path]) -> dict[str, int]:
    """Return the uncompressed size in bytes of each image's layers on top of the base, by name.

    The base is the common prefix of all layers, so images of two Dockerfiles are required. Raises ImagesError.
    """
    if len({IMAGES[name].dockerfile for name in archives}) < 2:
        raise ImagesError(
            "Finding the common base requires images of the operator and the server: export one of each first."
        )
    layers = {name: _layers(archive) for name, archive in archives.items()}
    base = len([*takewhile(lambda same: len(set(same)) == 1, zip(*layers.values(), strict=False))])
    return {name: sum(size for _, size in each[base:]) for name, each in layers.items()}


def _layers(archive: Path) -> list[tuple[str, int]]:
    """Return the digest and size in bytes of each layer of a docker-archive with one image, bottom first."""
    with tarfile.open(archive) as packed:
        [image] = _json(packed, "manifest.json")
        digests = _json(packed, image["Config"])["rootfs"]["diff_ids"]
        sizes = [packed.getmember(layer).size for layer in image["Layers"]]
    return list(zip(digests, sizes, strict=True))


def _json(packed: tarfile.TarFile, name: str) -> Any:
    return json.load(cast(IO[bytes], packed.extractfile(name)))
