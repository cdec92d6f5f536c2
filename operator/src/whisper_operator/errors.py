"""What can go wrong in the operator itself."""

from __future__ import annotations

import os

from whisper_cluster.errors import ClusterError


class NameTaken(ClusterError):
    """An object of the model's name is somebody else's; the message says what to do."""

    def __init__(self, kind: str, name: str) -> None:
        words = f"{kind} '{name}' is somebody else's, and is left as it is: give the model another name, or delete it"
        super().__init__(f"apply {kind} {name}", code=409, reason=words)

    @property
    def is_refusal(self) -> bool:
        """Always: what is somebody else's stays so, however often it is asked for."""
        return True


class PortUnavailable(Exception):
    """A port cannot be listened on."""

    def __init__(self, port: int, error: OSError, *, setting: str) -> None:
        # asyncio's own words name the address and say twice what is wrong with it.
        what = os.strerror(error.errno) if error.errno else error
        super().__init__(f"port {port}: {what}: choose another by {setting}, or 0 for none")


class LeadershipLost(Exception):
    """The lease could not be renewed in time, or somebody else holds it."""


class WatchFailed(Exception):
    """The watch of the cluster ended by itself; the message says why."""
