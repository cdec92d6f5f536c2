"""Errors of calls to the API server and to pods."""

from __future__ import annotations


class CallFailed(Exception):
    """A call to the API server or to a pod failed. The message says which call, and why."""


class ClusterError(CallFailed):
    """The API server rejected a request or did not respond. code: the HTTP status; 0: no response."""

    def __init__(self, action: str, *, code: int, reason: str) -> None:
        super().__init__(f"{action}: {code} {reason}" if code else f"{action}: {reason}")
        self.action = action
        self.code = code
        self.reason = reason

    @property
    def is_absence(self) -> bool:
        """Whether the object or its namespace does not exist, or the namespace is terminating."""
        return self.code == 404

    @property
    def is_refusal(self) -> bool:
        """Whether retrying will not help until somebody changes something.

        403: a quota, an admission policy, or a missing right. With server-side apply, a field that is not in the schema
        is 500 (apimachinery, pkg/util/managedfields).
        """
        return self.code in (400, 403, 422) or (self.code == 500 and "typed patch object" in self.reason)


class CrdMissing(CallFailed):
    """The cluster has no CRD for WhisperModels, or an older version of it. The message says what to do."""


class NotLeading(CallFailed):
    """A write was not sent: the lease has expired, and another replica may lead."""

    def __init__(self, action: str) -> None:
        super().__init__(f"{action}: not sent: the lease has expired, and another replica may lead")


class PodUnreachable(CallFailed):
    """A pod's server did not respond in time, or its response is invalid. The message says which."""


class PodRefused(CallFailed):
    """A pod's server refused a request. code: from its problem document. The message is the server's own."""

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
