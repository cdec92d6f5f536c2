"""Knows every accepted job, and what is allowed to become of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

_WITH_RETRY_AFTER = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_MOST_ATTEMPTS = 3
"""A job whose executor is lost this often fails, and says so."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept."""

    promise: str
    """Such as "no job is lost"."""
    detail: str
    """What was seen instead."""

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


@dataclass(slots=True)
class Known:
    """An accepted job."""

    key: str
    """Its idempotency key."""
    withdrawn: bool = False
    """Whether its client asked for its end."""


@dataclass
class Oracle:
    """Collects what clients see, from several threads."""

    expected: Callable[[str], str]
    """Returns the text of a job from its id."""
    counts: Counter[str] = field(default_factory=Counter[str])
    """What happened, by its name."""
    violations: list[Violation] = field(default_factory=list[Violation])
    """The promises that were not kept."""
    open: dict[str, Known] = field(default_factory=dict[str, Known])
    """The accepted jobs whose end has not been judged yet, by id."""
    _job_of_key: dict[str, str] = field(default_factory=dict[str, str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def accepted(self, key: str, job: str) -> None:
        """Note that a request was accepted, perhaps not for the first time."""
        with self._lock:
            known = self._job_of_key.setdefault(key, job)
            if known != job:
                self._violated("one key is one job", f"{key} was {known}, then {job}")
            elif job not in self.open:
                self.open[job] = Known(key)
                self.counts["accepted"] += 1

    def withdrawn(self, job: str) -> None:
        """Note that a client is about to cancel its job."""
        with self._lock:
            self.open[job].withdrawn = True

    def answered(self, job: str, text: str) -> None:
        """Note the text that a client got."""
        with self._lock:
            self.counts["answered"] += 1
            if text.strip() != self.expected(job):
                self._violated("a job has one result", f"{job} was answered with {text!r}")

    def refused(self, answer: httpx.Response, *, what: str) -> None:
        """Note an answer that is an error."""
        code, reason = _reason(answer)
        with self._lock:
            self.counts[f"refused: {answer.status_code} {code or 'without a code'}"] += 1
            if not (code and reason):
                self._violated("a refusal has a reason", f"{what}: {answer.status_code} {answer.text[:200]!r}")
            if answer.status_code in _WITH_RETRY_AFTER and "Retry-After" not in answer.headers:
                self._violated("a refusal says when to retry", f"{what}: {answer.status_code} {code}")
            if code == "model-not-found":
                self._violated("a reason is true", f"{what}: {answer.text[:200]}")
            if code == "internal":
                self._violated("no error is internal", f"{what}: {answer.text[:200]}")

    def cut_off(self, error: Exception, *, what: str, excused: bool) -> None:
        """Note a connection that ended without an answer. excused: the gateway was disturbed meanwhile."""
        with self._lock:
            self.counts["cut off"] += 1
            if not excused:
                self._violated("an undisturbed gateway answers", f"{what}: {type(error).__name__}: {error}")

    def stuck(self, detail: str) -> None:
        """Note something that did not end in time."""
        with self._lock:
            self._violated("nothing is stuck", detail)

    def note(self, what: str) -> None:
        """Count something that happened."""
        with self._lock:
            self.counts[what] += 1

    def judge(self, job: str, found: Json | None, text: str | None) -> None:
        """Judge the end of an accepted job. found: as the gateway reports it; None: it knows none."""
        with self._lock:
            known = self.open.pop(job)
            self._job_of_key.pop(known.key, None)
            if found is None:
                self._violated("no job is lost", f"{job} ({known.key}) is unknown")
                return
            self.counts[f"ended: {found['status']}"] += 1
            if complaint := self._complaint(found, text, withdrawn=known.withdrawn):
                self._violated(*complaint)

    def _complaint(self, found: Json, text: str | None, *, withdrawn: bool) -> tuple[str, str] | None:
        job, seen = found["id"], {name: found[name] for name in ("id", "status", "attempts", "error", "waiting_for")}
        match found["status"]:
            case "succeeded" if text is None or text.strip() != self.expected(job):
                return "a job has one result", f"{job} has the text {text!r}"
            case "succeeded":
                return None
            case "cancelled" if withdrawn:
                return None
            case "failed" if found["attempts"] >= _MOST_ATTEMPTS and found["error"]:
                return None
            case "queued" | "running":
                return "nothing is stuck", f"{seen}"
            case _:
                return "an accepted job succeeds", f"{seen}"

    def _violated(self, promise: str, detail: str) -> None:
        self.violations.append(Violation(promise, detail))


def _reason(answer: httpx.Response) -> tuple[str, str]:
    """Return the code of a refusal and its reason in words; empty: it has none."""
    try:
        body = answer.json()
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    error = body.get("error")
    if isinstance(error, dict):
        return str(error.get("code") or ""), str(error.get("message") or "")
    return str(body.get("code") or ""), str(body.get("detail") or "")
