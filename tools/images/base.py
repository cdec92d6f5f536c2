"""Create a base image without an image registry: Debian with Python, by mmdebstrap."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.images.builders import Builder, Order, find_builder
from tools.images.errors import ImagesError

BASE = "whisper-base:bookworm"
_SUITE = "bookworm"
_PACKAGES = "python3,ca-certificates"
_DOCKERFILE = "FROM scratch\nADD base.tar /\n"


def make_base() -> str:
    """Create the base image if it does not exist, and return its name.

    Requires root, mmdebstrap and a Debian mirror. Raises ImagesError.
    """
    builder = find_builder()
    if not builder.holds(BASE):
        _make(builder)
    return BASE


def _make(builder: Builder) -> None:
    if shutil.which("mmdebstrap") is None:
        raise ImagesError(
            "mmdebstrap is not installed, but is required to create the base image: run 'apt install mmdebstrap'."
        )
    with tempfile.TemporaryDirectory(prefix="whisper-base-") as folder:
        root, dockerfile = Path(folder) / "base.tar", Path(folder) / "Dockerfile"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", *_without_manuals()]
        if status := subprocess.run([*command, _SUITE, str(root)], stdout=sys.stderr, check=False).returncode:
            raise ImagesError(f"mmdebstrap failed with status {status}; see its output above. It must run as root.")
        dockerfile.write_text(_DOCKERFILE)
        builder.build(Order(BASE, dockerfile, root.parent))


def _without_manuals() -> list[str]:
    """Exclude manuals but keep licenses, as in Debian's slim images."""
    rules = (
        "path-exclude=/usr/share/man/*",
        "path-exclude=/usr/share/doc/*",
        "path-include=/usr/share/doc/*/copyright",
    )
    return [f"--dpkgopt={rule}" for rule in rules]
