"""The interface of cluster providers, and the location of the kubeconfig."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
KUBECONFIG = ROOT / "var" / "e2e" / "kubeconfig"
BINARIES = ROOT / ".tools" / "bin"
"""The programs built by `make cluster-tools`."""


class ProviderFailed(Exception):
    """A cluster operation failed. The message says what happened and what to do."""


def program(name: str) -> str:
    """Return the path of a program such as kubectl: our own build, else from the PATH. Raises ProviderFailed."""
    found = shutil.which(name, path=f"{BINARIES}:{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise ProviderFailed(
            f"{name} was found neither on the PATH nor in {BINARIES}: install it, or run 'make cluster-tools'"
        )
    return found


class Provider(Protocol):
    """A test cluster on this machine."""

    context: str
    """The name of the kubeconfig context, which marks the cluster as one for tests."""

    needs_base_image: bool
    """Whether to build images on a locally created base image, because no registry may be reachable."""

    def unavailable_reason(self) -> str | None:
        """Return why this machine cannot run the cluster, or None if it can."""
        ...

    def is_up(self) -> bool: ...

    def up(self) -> None:
        """Start the cluster if it is not running, and write KUBECONFIG. Raises ProviderFailed."""
        ...

    def down(self) -> None:
        """Stop the cluster in any state. Loaded images may be kept for the next start."""
        ...

    def load(self, archives: Sequence[Path]) -> None:
        """Load images from docker or OCI archives. Raises ProviderFailed."""
        ...

    def tag(self, image: str, another: str) -> None:
        """Give a loaded image an additional name. Raises ProviderFailed."""
        ...

    def restart_api_server(self) -> None:
        """Kill the API server and wait until it is ready again. Raises ProviderFailed."""
        ...
