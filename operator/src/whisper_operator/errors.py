"""Errors of the operator itself."""

from __future__ import annotations

import os

from whisper_cluster.errors import ClusterError


class NameTaken(ClusterError):
    """An object with the model's name belongs to somebody else. The message says what to do."""

    def __init__(self, kind: str, name: str) -> None:
        reason = (
            f"{kind} '{name}' belongs to somebody else and was left unchanged: rename the model, or delete the {kind}"
        )
        super().__init__(f"apply {kind} {name}", code=409, reason=reason)

    @property
    def is_refusal(self) -> bool:
        """Always: retrying does not make the object ours."""
        return True


class PortUnavailable(Exception):
    """The operator cannot listen on a port."""

    def __init__(self, port: int, error: OSError, *, setting: str) -> None:
        # asyncio's message repeats the cause and names the address.
        cause = os.strerror(error.errno) if error.errno else error
        super().__init__(f"port {port}: {cause}: set {setting} to another port, or to 0 for none")


class LeadershipLost(Exception):
    """The leader election Lease was not renewed in time, or another replica holds it."""


class WatchFailed(Exception):
    """The watch of the cluster ended unexpectedly. The message says why."""
