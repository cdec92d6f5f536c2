"""What can go wrong with calls to the API server and to pods."""

from __future__ import annotations


class CallFailed(Exception):
    """A call to the API server or to a pod did not succeed; the message says which and why."""


class ClusterError(CallFailed):
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


class CrdMissing(CallFailed):
    """The cluster does not know WhisperModels, or knows an older kind of them; the message says what to do."""


class NotLeading(CallFailed):
    """What would have changed something was not sent: the lease has run out, and another replica may lead."""

    def __init__(self, action: str) -> None:
        super().__init__(f"{action}: not sent: the lease has run out, and another replica may lead")


class PodUnreachable(CallFailed):
    """A pod's server did not answer in time, or not as it should; the message says what it did."""


class PodRefused(CallFailed):
    """A pod's server refused; code: of its problem document. The message is the server's own."""

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
