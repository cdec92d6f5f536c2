"""What can go wrong, as the reconciler tells it apart."""

from __future__ import annotations

import os


class ClusterError(Exception):
    """The API server refused or did not answer; code: its HTTP status, 0 without one."""

    def __init__(self, action: str, *, code: int, reason: str) -> None:
        super().__init__(f"{action}: {code} {reason}" if code else f"{action}: {reason}")
        self.action = action
        self.code = code
        self.reason = reason

    @property
    def is_absence(self) -> bool:
        """Whether the object does not exist, or its namespace is ending."""
        return self.code == 404

    @property
    def is_refusal(self) -> bool:
        """Whether what was sent cannot be accepted, however often it is sent, until somebody changes something.

        403: a quota, an admission policy, or a right that the operator lacks. A field that the schema lacks is 500 with
        server-side apply (apimachinery, pkg/util/managedfields).
        """
        return self.code in (400, 403, 422) or (self.code == 500 and "typed patch object" in self.reason)


class NameTaken(ClusterError):
    """An object of the model's name is somebody else's; the message says what to do."""

    def __init__(self, kind: str, name: str) -> None:
        words = f"{kind} '{name}' is somebody else's, and is left as it is: give the model another name, or delete it"
        super().__init__(f"apply {kind} {name}", code=409, reason=words)

    @property
    def is_refusal(self) -> bool:
        """Always: what is somebody else's stays so, however often it is asked for."""
        return True


class PodUnreachable(Exception):
    """A pod's server did not answer in time, or not as it should; the message says what it did."""


class PodRefused(Exception):
    """A pod's server refused; code: of its problem document. The message is the server's own."""

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class PortUnavailable(Exception):
    """A port cannot be listened on."""

    def __init__(self, port: int, error: OSError, *, setting: str) -> None:
        # asyncio's own words name the address and say twice what is wrong with it.
        what = os.strerror(error.errno) if error.errno else error
        super().__init__(f"port {port}: {what}: choose another by {setting}, or 0 for none")


class CrdMissing(Exception):
    """The cluster does not know WhisperModels, or knows an older kind of them; the message says what to do."""


class NotLeading(Exception):
    """What would have changed something was not sent: the lease has run out, and another replica may lead."""

    def __init__(self, action: str) -> None:
        super().__init__(f"{action}: not sent: the lease has run out, and another replica may lead")


class LeadershipLost(Exception):
    """The lease could not be renewed in time, or somebody else holds it."""


class WatchFailed(Exception):
    """The watch of the cluster ended by itself; the message says why."""
