"""The program: cycles of faults under a stream of jobs, and in between a calm in which every accepted job is judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any

import httpx

from testing.chaos.clients import running_clients
from testing.chaos.faults import chosen
from testing.chaos.oracle import Oracle
from testing.chaos.world import World

_CLIENTS = 6
_CYCLES_PER_ROUND = 20
_LONGEST_FAULT_SECONDS = 6.0
_LONGEST_CALM_SECONDS = 1.0
_SETTLE_SECONDS = 180
"""For the jobs and models to come to rest once all is well again."""
_LOOK_SECONDS = 0.1

Json = dict[str, Any]


@dataclass
class Chaos:
    """One run of the program, determined by its seed as far as the machine's timing allows."""

    world: World
    """What is disturbed."""
    oracle: Oracle
    """What judges."""
    seed: int
    """Determines the faults and what clients do."""
    report: Callable[[str], None] = lambda _: None
    """Called with a line for each cycle."""
    longest_fault: float = _LONGEST_FAULT_SECONDS
    """How many seconds a fault may be in effect."""
    faults: Counter[str] = field(default_factory=Counter[str])
    """How often each fault was in effect."""

    def run(self, cycles: int) -> None:
        """Run some cycles, with a calm after each twenty."""
        random = Random(self.seed)
        done = 0
        while done < cycles and not self.oracle.violations:
            part = min(_CYCLES_PER_ROUND, cycles - done)
            self._round(part, random, name=f"{self.seed}-{done}")
            done += part

    def _round(self, cycles: int, random: Random, *, name: str) -> None:
        seeds = [random.randrange(2**32) for _ in range(_CLIENTS)]
        with running_clients(self.world, self.oracle, seeds=seeds, name=name) as finish:
            for number in range(cycles):
                self._cycle(random, f"{name}, cycle {number}")
            finish()
        self._judge()
        self.report(f"calm: {dict(sorted(self.oracle.counts.items()))}")

    def _cycle(self, random: Random, name: str) -> None:
        faults = chosen(random)
        names = ", ".join(fault.name for fault in faults)
        seconds = random.uniform(0.1, self.longest_fault)
        self.report(f"{name}: {names} for {seconds:.1f} s")
        with ExitStack() as healing:
            for fault in faults:
                healing.enter_context(fault.during(self.world, random))
                self.faults[fault.name] += 1
                time.sleep(random.uniform(0, seconds / len(faults)))
        for ended in self.world.restore():
            self.oracle.note(ended)
        time.sleep(random.uniform(0, _LONGEST_CALM_SECONDS))

    def _judge(self) -> None:
        """Wait until nothing is left to do, then judge all accepted jobs."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        with self.world.gateway.client("auditor") as client:
            while open_jobs := _unfinished(client):
                if time.monotonic() > deadline:
                    self.oracle.stuck(f"jobs after {_SETTLE_SECONDS} s: {open_jobs[:3]}")
                    break
                time.sleep(_LOOK_SECONDS)
            for job in list(self.oracle.open):
                self.oracle.judge(job, *_found(client, job))
        for model in self.world.models:
            self._wait_for_zero(model.name, deadline)

    def _wait_for_zero(self, name: str, deadline: float) -> None:
        [model] = [model for model in self.world.models if model.name == name]
        while (status := model.status).get("state") != "Zero" or model.pods():
            if time.monotonic() > deadline:
                self.oracle.stuck(f"{name} is not at zero: {status.get('state')}, {status.get('message')}")
                return
            time.sleep(_LOOK_SECONDS)


def _unfinished(client: httpx.Client) -> list[Json]:
    found: list[Json] = []
    # A job that changes from one to the other between two looks is in one of the three.
    for status in ("queued", "running", "queued"):
        answer = client.get("/jobs", params={"status": status, "limit": "500"})
        found += answer.raise_for_status().json()["jobs"]
    return found


def _found(client: httpx.Client, job: str) -> tuple[Json | None, str | None]:
    """Return a job and its text, which the job itself and its result must agree about."""
    answer = client.get(f"/jobs/{job}")
    if answer.status_code == HTTPStatus.NOT_FOUND:
        return None, None
    found = answer.raise_for_status().json()
    if found["status"] != "succeeded":
        return found, None
    text = client.get(f"/jobs/{job}/result").raise_for_status().json()["text"]
    return found, text if text.strip() == found["text"].strip() else f"{text!r}, and {found['text']!r}"
