"""What every provider of a cluster can do, and where its kubeconfig lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
KUBECONFIG = ROOT / "var" / "e2e" / "kubeconfig"
BINARIES = ROOT / ".tools" / "bin"
"""What `make cluster-tools` builds."""


class ProviderFailed(Exception):
    """What went wrong, and what to do."""


def program(name: str) -> str:
    """Return the path of kubectl or helm: the one that was built here, else that of the PATH. Raises ProviderFailed."""
    found = shutil.which(name, path=f"{BINARIES}:{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise ProviderFailed(
            f"{name} is neither on the PATH nor in {BINARIES}: install it, or run 'make cluster-tools'"
        )
    return found


class Provider(Protocol):
    """A cluster for tests, on this machine."""

    context: str
    """The name in the kubeconfig by which the stories know that they may run there."""

    needs_a_base: bool
    """Whether images are built on a base that is made here, since no registry need be reached."""

    def why_not(self) -> str | None:
        """Return what this machine lacks for it, as a sentence; None: nothing."""
        ...

    def is_up(self) -> bool: ...

    def up(self) -> None:
        """Bring it up, unless it is; write KUBECONFIG. Raises ProviderFailed."""
        ...

    def down(self) -> None:
        """End it, whatever state it is in. Images that were loaded may stay for the next time."""
        ...

    def load(self, archives: Sequence[Path]) -> None:
        """Give it the images of docker or OCI archives. Raises ProviderFailed."""
        ...

    def tag(self, image: str, another: str) -> None:
        """Give an image that was loaded another name as well. Raises ProviderFailed."""
        ...

    def restart_api_server(self) -> None:
        """Kill the API server and let it come back. Returns when it answers again."""
        ...
