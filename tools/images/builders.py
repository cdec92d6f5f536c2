"""What makes images: docker, podman or buildah, whichever works here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.images.errors import ImagesError


@dataclass(frozen=True, slots=True)
class Order:
    """One image to build. target, secrets (by id) and arguments: as the Dockerfile names them."""

    reference: str
    dockerfile: Path
    context: Path
    target: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Mapping[str, Path] = field(default_factory=dict[str, Path])


@dataclass(frozen=True, slots=True)
class Builder:
    """A program that builds images. save: what exports one as a docker-archive, with {reference} and {archive}."""

    program: str
    works: tuple[str, ...]
    save: tuple[str, ...]
    has: tuple[str, ...]
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def build(self, order: Order) -> None:
        """Build an image; layers that are there are taken. Raises ImagesError."""
        target = [f"--target={order.target}"] if order.target else []
        arguments = [f"--build-arg={name}={value}" for name, value in order.arguments.items()]
        secrets = [f"--secret=id={name},src={path}" for name, path in order.secrets.items()]
        named = [f"--tag={order.reference}", f"--file={order.dockerfile}"]
        self._run("build", *self.options, *named, *target, *arguments, *secrets, str(order.context))

    def export(self, reference: str, archive: Path) -> None:
        """Write an image into a docker-archive: a file that docker, kind and containerd load. Raises ImagesError."""
        self._run(*(part.format(reference=reference, archive=archive) for part in self.save))

    def holds(self, reference: str) -> bool:
        """Say whether an image of this name was built or pulled here."""
        return subprocess.run([self.program, *self.has, reference], capture_output=True, check=False).returncode == 0

    def _run(self, *arguments: str) -> None:
        # What builders say is for people; the standard output belongs to the caller.
        done = subprocess.run(
            [self.program, *arguments], env={**self.environment, **os.environ}, stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise ImagesError(
                f"'{self.program} {arguments[0]}' ended with status {done.returncode}; it said why above."
            )


_PUSH = ("push", "--quiet", "{reference}", "docker-archive:{archive}:{reference}")
BUILDERS = (
    Builder(
        program="docker",
        works=("version",),  # fails without a daemon
        save=("save", "--output={archive}", "{reference}"),
        has=("image", "inspect"),
        environment={"DOCKER_BUILDKIT": "1"},
    ),
    Builder(program="podman", works=("info",), save=_PUSH, has=("image", "exists"), options=("--layers",)),
    Builder(
        program="buildah",
        works=("info",),
        save=_PUSH,
        has=("inspect", "--type=image"),
        options=("--layers",),
        # Without a runtime, and without the rights that one needs: this also works inside of a container.
        environment={"BUILDAH_ISOLATION": "chroot"},
    ),
)


def find_builder() -> Builder:
    """Return the first builder that works on this machine. Raises ImagesError if none does."""
    for builder in BUILDERS:
        if shutil.which(builder.program) and _succeeds(builder.program, *builder.works):
            return builder
    names = ", ".join(builder.program for builder in BUILDERS)
    raise ImagesError(f"None of {names} works here: install one (Debian, Ubuntu: apt install buildah).")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
