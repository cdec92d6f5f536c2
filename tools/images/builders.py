"""Programs that build images: docker, podman or buildah, whichever works on this machine."""

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
    """One image to build."""

    reference: str
    """The name and tag of the image."""
    dockerfile: Path
    context: Path
    target: str | None = None
    """A stage of the Dockerfile; None means the last one."""
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    """Build arguments by name."""
    secrets: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Files by the id of the secret."""


@dataclass(frozen=True, slots=True)
class Builder:
    """A program that builds images, with the arguments of its commands."""

    program: str
    works: tuple[str, ...]
    """Succeeds if the program works on this machine."""
    save: tuple[str, ...]
    """Exports an image as a docker-archive; {reference} and {archive} are replaced."""
    has: tuple[str, ...]
    """Succeeds if the image whose reference follows exists."""
    options: tuple[str, ...] = ()
    """Additional options of the build command."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Environment variables for all commands, unless they are set already."""

    def build(self, order: Order) -> None:
        """Build an image, using cached layers. Raises ImagesError."""
        target = [f"--target={order.target}"] if order.target else []
        arguments = [f"--build-arg={name}={value}" for name, value in order.arguments.items()]
        secrets = [f"--secret=id={name},src={path}" for name, path in order.secrets.items()]
        named = [f"--tag={order.reference}", f"--file={order.dockerfile}"]
        self._run("build", *self.options, *named, *target, *arguments, *secrets, str(order.context))

    def export(self, reference: str, archive: Path) -> None:
        """Export an image to a docker-archive, which docker, kind and containerd can load. Raises ImagesError."""
        self._run(*(part.format(reference=reference, archive=archive) for part in self.save))

    def holds(self, reference: str) -> bool:
        """Return whether an image with this name exists in the local store."""
        return subprocess.run([self.program, *self.has, reference], capture_output=True, check=False).returncode == 0

    def _run(self, *arguments: str) -> None:
        # Send build output to stderr: the caller prints results to stdout.
        done = subprocess.run(
            [self.program, *arguments], env={**self.environment, **os.environ}, stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise ImagesError(
                f"'{self.program} {arguments[0]}' failed with status {done.returncode}; see its output above."
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
        # Needs no container runtime and fewer privileges, so it also works inside a container.
        environment={"BUILDAH_ISOLATION": "chroot"},
    ),
)


def find_builder() -> Builder:
    """Return the first builder that works on this machine. Raises ImagesError if none does."""
    for builder in BUILDERS:
        if shutil.which(builder.program) and _succeeds(builder.program, *builder.works):
            return builder
    names = ", ".join(builder.program for builder in BUILDERS)
    raise ImagesError(f"None of {names} works on this machine: install one (Debian, Ubuntu: apt install buildah).")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
