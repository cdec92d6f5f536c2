"""Clients that never stop sending jobs, and report to the oracle what they see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any

import httpx

from testing.audio_files import JFK
from testing.chaos.oracle import Oracle
from testing.chaos.world import World
from testing.server_process import upload

_ANSWER_SECONDS = 120
"""For one request: longer than any fault."""
_PATIENCE_SECONDS = 240
"""For one job, with all its repeated requests."""
_TRY_AGAIN = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE}
_RETRY_SECONDS = 0.2

Json = dict[str, Any]


@dataclass
class Client:
    """One client with a job at a time, in a thread of its own."""

    world: World
    """What it talks to."""
    oracle: Oracle
    """What it reports to."""
    random: Random
    """Chooses what it does."""
    name: str
    """Begins its idempotency keys."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when it shall begin nothing new."""

    def run(self) -> None:
        """Send jobs until stopped."""
        number = 0
        with self.world.gateway.client() as self._http:
            while not self.stopping.is_set():
                number += 1
                self._job(f"{self.name}-{number}")
                self.stopping.wait(self.random.uniform(0, 0.3))

    def _job(self, key: str) -> None:
        fields = {"model": self.random.choice(self.world.models).name}
        if self.random.random() < 0.5:
            self._until_answered(key, lambda: self._post("/v1/audio/transcriptions", key, fields))
            return
        accepted = self._until_answered(key, lambda: self._post("/jobs", key, fields))
        if accepted is not None:
            self._follow(key, accepted.json()["id"], fields)

    def _follow(self, key: str, job: str, fields: dict[str, str]) -> None:
        """Do with an accepted job what clients do: ask for it, repeat its request, cancel it, or just leave."""
        what = self.random.choices(["ask", "repeat", "cancel", "leave"], [4, 2, 1, 3])[0]
        if what == "ask":
            self._once(f"GET /jobs/{job}", lambda: self._http.get(f"/jobs/{job}"))
        elif what == "repeat":
            self._until_answered(key, lambda: self._post("/jobs", key, fields))
        elif what == "cancel":
            self.oracle.withdrawn(job)
            self._once(f"DELETE /jobs/{job}", lambda: self._http.delete(f"/jobs/{job}"))

    def _post(self, path: str, key: str, fields: dict[str, str]) -> httpx.Response:
        return self._http.post(path, files={"file": upload(JFK)}, data=fields, headers={"Idempotency-Key": key})

    def _until_answered(self, key: str, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        """Send a request until it succeeds; None: the client gave up, or was refused for good."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = self._once(key, send)
            if answer is not None and answer.is_success:
                self._note(key, answer)
                return answer
            if answer is not None and answer.status_code not in _TRY_AGAIN:
                return None
            if self.stopping.is_set() or self.random.random() < 0.1:
                self.oracle.note("gave up")
                return None
            time.sleep(_RETRY_SECONDS)
        self.oracle.stuck(f"{key}: no answer for {_PATIENCE_SECONDS} s")
        return None

    def _note(self, key: str, answer: httpx.Response) -> None:
        if answer.status_code == HTTPStatus.ACCEPTED:
            self.oracle.accepted(key, answer.json()["id"])
        else:
            self.oracle.answered(answer.headers["X-Job-Id"], answer.json()["text"])

    def _once(self, what: str, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        before = self.world.disturbances
        try:
            answer = send()
        except httpx.TransportError as error:
            after = self.world.disturbances
            self.oracle.cut_off(error, what=what, excused=after != before or after % 2 == 1)
            return None
        if answer.is_error:
            self.oracle.refused(answer, what=what)
        return answer


@contextmanager
def running_clients(world: World, oracle: Oracle, *, seeds: Sequence[int], name: str) -> Iterator[Callable[[], None]]:
    """Run a client for each seed. Yields a function that lets them finish, which the block's end also does."""
    clients = [Client(world, oracle, Random(seed), f"{name}-{number}") for number, seed in enumerate(seeds)]
    threads = [threading.Thread(target=client.run, name=client.name) for client in clients]
    for thread in threads:
        thread.start()

    def finish() -> None:
        for client in clients:
            client.stopping.set()
        for thread in threads:
            thread.join(_PATIENCE_SECONDS + _ANSWER_SECONDS)

    try:
        yield finish
    finally:
        finish()
