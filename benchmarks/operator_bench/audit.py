"""Read the API server's audit log: who wrote what, and when, with microseconds."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

OPERATOR = "operator"
"""The user name of the operator; everything else is written by the administrator."""
_COUNTED = frozenset({"whispermodels", "deployments", "services", "secrets"})
"""Leases and Events are not counted as writes."""
_LOOK_SECONDS = 0.25

Model = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Write:
    """One successful write."""

    user: str
    verb: str
    resource: str
    subresource: str
    model: Model
    """The model that the object belongs to."""
    received: float
    """When the request was received, in seconds since 1970."""
    done: float
    """When it was answered, in seconds since 1970."""

    @property
    def counts(self) -> bool:
        """Whether it counts as a write of the operator."""
        return self.user == OPERATOR and self.resource in _COUNTED

    def touches(self, resource: str, *, by: str, subresource: str = "") -> bool:
        return (self.resource, self.user, self.subresource) == (resource, by, subresource)


class AuditLog:
    """Reads the log incrementally."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.writes: list[Write] = []

    def refresh(self) -> list[Write]:
        """Read and return new writes."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        # The last line may be incomplete.
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        new = [_write(json.loads(line)) for line in whole.splitlines()]
        fresh = [one for one in new if one is not None]
        self.writes += fresh
        return fresh

    def wait_for(self, condition: Callable[[list[Write]], bool], description: str, *, seconds: float) -> None:
        """Wait until a condition holds for the list of all writes. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        self.refresh()
        while not condition(self.writes):
            if time.monotonic() > deadline:
                raise TimeoutError(f"timed out after {seconds:g} s: {description}")
            time.sleep(_LOOK_SECONDS)
            self.refresh()

    def wait_for_silence(self, seconds: float, *, timeout: float = 300.0) -> None:
        """Wait until the operator has written nothing that counts for some seconds. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        since = time.monotonic()
        while time.monotonic() - since < seconds:
            if time.monotonic() > deadline:
                raise TimeoutError(f"timed out after {timeout:g} s: the operator is still writing")
            if any(one.counts for one in self.refresh()):
                since = time.monotonic()
            time.sleep(_LOOK_SECONDS)


def by_model(writes: Iterable[Write]) -> dict[Model, list[Write]]:
    """Return the writes of each model in the order in which they were received."""
    found: dict[Model, list[Write]] = defaultdict(list)
    for one in sorted(writes, key=lambda one: one.received):
        found[one.model].append(one)
    return dict(found)


def by_kind(writes: Iterable[Write]) -> str:
    """Return a summary of the operator's writes by resource."""
    kinds = Counter(f"{one.resource}/{one.subresource}".removesuffix("/") for one in writes if one.counts)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"


def _write(event: dict[str, object]) -> Write | None:
    about, answer, user = event.get("objectRef"), event.get("responseStatus"), event["user"]
    if not (isinstance(about, dict) and isinstance(answer, dict) and isinstance(user, dict)) or answer["code"] >= 300:
        return None
    return Write(
        user=user["username"],
        verb=str(event["verb"]),
        resource=about["resource"],
        subresource=about.get("subresource", ""),
        model=(about.get("namespace", ""), str(about.get("name", "")).removeprefix("demand-")),
        received=_seconds(event["requestReceivedTimestamp"]),
        done=_seconds(event["stageTimestamp"]),
    )


def _seconds(stamp: object) -> float:
    return datetime.fromisoformat(str(stamp)).timestamp()
