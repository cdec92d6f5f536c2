"""The images, and their sources."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "images"
_EXCLUDED = ("__pycache__", ".egg-info")
"""Generated files, as in .dockerignore."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image that can be built."""

    repository: str
    dockerfile: str
    """The file name of the Dockerfile."""
    target: str
    """The stage of the Dockerfile."""
    variant: str = ""
    """The part of the tag after the version."""
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    """Build arguments by name."""

    @property
    def path(self) -> Path:
        """The path of the Dockerfile."""
        return FOLDER / self.dockerfile

    @property
    def reference(self) -> str:
        """The name and tag of the image."""
        return f"{self.repository}:{version()}{self.variant and '-'}{self.variant}"


def _server(variant: str, *, engine: str, extra: str, target: str = "inference") -> Image:
    arguments = {"VARIANT": extra, "ENGINE": engine}
    return Image("whisper-inference", "inference.Dockerfile", target, variant, arguments)


IMAGES: Mapping[str, Image] = {
    "operator": Image("whisper-operator", "operator.Dockerfile", "operator"),
    "gateway": Image("whisper-gateway", "gateway.Dockerfile", "gateway"),
    "none": _server("none", engine="openai-whisper", extra="none"),
    "faster": _server("faster", engine="faster-whisper", extra="faster"),
    # No variant in the tag, because this is the operator's default.
    "openai": _server("", engine="openai-whisper", extra="openai"),
    "faster-tiny.en": _server("faster-tiny.en", engine="faster-whisper", extra="faster", target="with-weights"),
    "openai-tiny.en": _server("openai-tiny.en", engine="openai-whisper", extra="openai", target="with-weights"),
}


def reference(name: str) -> str:
    """Return the name and tag of an image, such as whisper-inference:0.1.0-faster."""
    return IMAGES[name].reference


@cache
def version() -> str:
    """Return the version of all images, which is the operator's."""
    text = (ROOT / "operator" / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def sources(image: Image, *, root: Path = ROOT) -> list[Path]:
    """Return the source files of an image: its Dockerfile, and the files that it copies from the repository."""
    dockerfile = root / image.path.relative_to(ROOT)
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    copied = [Template(name).safe_substitute(image.arguments) for line in lines for name in line.split()]
    return sorted({dockerfile, *(file for name in copied for file in _files(root / name))})


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        yield from (file for file in files if not any(part.endswith(_EXCLUDED) for part in file.parts))
    else:
        yield path


def fingerprint(image: Image, *, base: str | None, root: Path = ROOT) -> str:
    """Return a hash of 12 hexadecimal digits over the sources and build parameters of an image."""
    digest = hashlib.sha256(json.dumps([image.reference, image.target, dict(image.arguments), base]).encode())
    for file in sources(image, root=root):
        digest.update(f"\0{file.relative_to(root)}\0{file.stat().st_mode & 0o111}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
