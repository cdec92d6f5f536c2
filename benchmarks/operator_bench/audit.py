"""The API server's audit log as a measuring instrument: who wrote what, and when to the microsecond."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

OPERATOR = "operator"
"""The user as which the operator runs here; everything else is written by the administrator."""
_COUNTED = frozenset({"whispermodels", "deployments", "services", "secrets"})
"""Leases and Events are not counted as writes."""
_LOOK_SECONDS = 0.25

Model = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Write:
    """One successful write. received, done: seconds since 1970, when the request came in and when it was answered."""

    user: str
    verb: str
    resource: str
    subresource: str
    model: Model
    received: float
    done: float

    @property
    def counts(self) -> bool:
        """Whether it is one of the operator's that a change of state is judged by."""
        return self.user == OPERATOR and self.resource in _COUNTED

    def touches(self, resource: str, *, by: str, subresource: str = "") -> bool:
        return (self.resource, self.user, self.subresource) == (resource, by, subresource)


class AuditLog:
    """Reads the log on from where it was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.writes: list[Write] = []

    def refresh(self) -> list[Write]:
        """Read what is new; return it."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        # The last line may be half written.
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        new = [_write(json.loads(line)) for line in whole.splitlines()]
        fresh = [one for one in new if one is not None]
        self.writes += fresh
        return fresh

    def wait_for(self, fact: Callable[[list[Write]], bool], what: str, *, seconds: float) -> None:
        """Wait until a fact holds of all writes. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        self.refresh()
        while not fact(self.writes):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:g} s")
            time.sleep(_LOOK_SECONDS)
            self.refresh()

    def wait_for_silence(self, seconds: float, *, most: float = 300.0) -> None:
        """Wait until the operator has written nothing that counts for so long. Raises TimeoutError."""
        deadline = time.monotonic() + most
        since = time.monotonic()
        while time.monotonic() - since < seconds:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the operator has not come to rest within {most:g} s")
            if any(one.counts for one in self.refresh()):
                since = time.monotonic()
            time.sleep(_LOOK_SECONDS)


def by_model(writes: Iterable[Write]) -> dict[Model, list[Write]]:
    """Return the writes of each model, in the order of their coming in."""
    found: dict[Model, list[Write]] = defaultdict(list)
    for one in sorted(writes, key=lambda one: one.received):
        found[one.model].append(one)
    return dict(found)


def by_kind(writes: Iterable[Write]) -> str:
    """Return in words how many of the operator's writes went to what."""
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
