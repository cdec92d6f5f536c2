"""The images that there are, and what each is made of."""

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
_LEFT_OUT = ("__pycache__", ".egg-info")
"""As in .dockerignore: what is made from sources is none."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image. variant: what follows the version in its tag; target, arguments: of its Dockerfile."""

    repository: str
    dockerfile: str
    target: str
    variant: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def path(self) -> Path:
        """The Dockerfile."""
        return FOLDER / self.dockerfile

    @property
    def reference(self) -> str:
        """The name by which pods and people call it."""
        return f"{self.repository}:{version()}{self.variant and '-'}{self.variant}"


def _server(variant: str, *, engine: str, extra: str, target: str = "inference") -> Image:
    arguments = {"VARIANT": extra, "ENGINE": engine}
    return Image("whisper-inference", "inference.Dockerfile", target, variant, arguments)


IMAGES: Mapping[str, Image] = {
    "operator": Image("whisper-operator", "operator.Dockerfile", "operator"),
    "none": _server("none", engine="openai-whisper", extra="none"),
    "faster": _server("faster", engine="faster-whisper", extra="faster"),
    # Without a variant in its tag: this is what the operator starts by default.
    "openai": _server("", engine="openai-whisper", extra="openai"),
    "faster-tiny.en": _server("faster-tiny.en", engine="faster-whisper", extra="faster", target="with-weights"),
    "openai-tiny.en": _server("openai-tiny.en", engine="openai-whisper", extra="openai", target="with-weights"),
}


def reference(name: str) -> str:
    """Return what an image is called, such as whisper-inference:0.1.0-faster."""
    return IMAGES[name].reference


@cache
def version() -> str:
    """Return the version of all images: the operator's."""
    text = (ROOT / "operator" / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def sources(image: Image, *, root: Path = ROOT) -> list[Path]:
    """Return the files that an image is made of: its Dockerfile, and what that copies of the repository."""
    dockerfile = root / image.path.relative_to(ROOT)
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    copied = [Template(name).safe_substitute(image.arguments) for line in lines for name in line.split()]
    return sorted({dockerfile, *(file for name in copied for file in _files(root / name))})


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        yield from (file for file in files if not any(part.endswith(_LEFT_OUT) for part in file.parts))
    else:
        yield path


def fingerprint(image: Image, *, base: str | None, root: Path = ROOT) -> str:
    """Return 12 hexadecimal digits that change whenever what the image is made of does."""
    digest = hashlib.sha256(json.dumps([image.reference, image.target, dict(image.arguments), base]).encode())
    for file in sources(image, root=root):
        digest.update(f"\0{file.relative_to(root)}\0{file.stat().st_mode & 0o111}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
