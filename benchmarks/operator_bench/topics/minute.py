"""200 models whose schedules fire at the same minute: delay of the unload calls, and number of writes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from benchmarks.measure import Finding, Runs, at_most
from benchmarks.operator_bench.audit import Model, by_kind, by_model
from benchmarks.operator_bench.fleet import API, BenchRun, Fleet, Json, fleet, percentile
from testing.api_server import ApiServer, running_controllers
from testing.kubelet_stand_in import running_kubelet
from testing.pod_stand_in import PodServer

NAME = "minute"
TITLE = "200 models at the same minute"
_MODELS = 200
_AHEAD = timedelta(seconds=40)
"""Minimum time between applying the schedule and its first fire, so that all models have settled."""
_REST_SECONDS = 3.0
_RETRY_SECONDS = 0.1
_UNLOAD = "POST /model/unload"


class _Calls(list[str]):
    """The calls that a pod received, with times in seconds since 1970."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def append(self, call: str) -> None:
        self.at.append(time.time())
        super().append(call)

    def first(self, call: str) -> float | None:
        return next((at for at, one in zip(self.at, self, strict=True) if one.startswith(call)), None)


@dataclass(slots=True)
class _States:
    """The state changes seen by a watch, by model."""

    last: dict[Model, str] = field(default_factory=dict[Model, str])
    changes: Counter[Model] = field(default_factory=Counter[Model])

    def see(self, seen: Json) -> None:
        model = (seen["metadata"]["namespace"], seen["metadata"]["name"])
        state = seen.get("status", {}).get("state", "")
        if state != self.last.get(model, ""):
            self.last[model] = state
            self.changes[model] += 1


def run(bench: BenchRun) -> Generator[Finding]:
    """Load all models, wait until the minute at which all are unloaded, and evaluate the calls."""
    calls: list[_Calls] = []

    def with_clock(server: PodServer) -> None:
        server.calls = _Calls()
        calls.append(server.calls)

    with (
        bench.cluster() as api,
        running_controllers(api),
        running_kubelet(api) as kubelet,
        fleet(api, bench.count(_MODELS)) as many,
    ):
        kubelet.prepare = with_clock
        many.apply_all({"desiredState": "Loaded"})
        many.start()
        with _watched(api) as states:
            yield _loads(many, states)
            fire = _schedule(many)
            yield from _unloads(many, states, calls=calls, fire=fire)
        yield Finding("memory of the operator (RSS)", many.measure_memory(), "MB", at_most(200))


def _loads(many: Fleet, states: _States) -> Finding:
    began = time.monotonic()
    many.wait_for(lambda status: status.get("state") == "Loaded", "the model is loaded")
    seconds = time.monotonic() - began
    many.audit.wait_for_silence(_REST_SECONDS)
    most = Counter(states.changes).most_common(1)[0][1]
    changes = sum(states.changes.values())
    note = (
        f"until all are Loaded: pods created, started and called; {changes} state changes (at most {most} of one model)"
    )
    return Finding(f"start of the operator with {len(many.models)} models to load", seconds, "s", note=note)


def _schedule(many: Fleet) -> float:
    """Schedule the unload of all models for the same future minute; return it."""
    now = datetime.now(UTC)
    fire = (now + _AHEAD + timedelta(minutes=1)).replace(second=0, microsecond=0)
    entries = [_entry("load", now - timedelta(minutes=1), "Loaded"), _entry("unload", fire, "Unloaded")]
    many.apply_all({"schedule": {"entries": entries}})
    many.audit.wait_for_silence(_REST_SECONDS)
    many.wait_for(lambda status: status.get("reason") == "Schedule", "the schedule is in effect")
    assert time.time() < fire.timestamp(), "the models did not settle before the scheduled minute"
    return fire.timestamp()


def _entry(name: str, at: datetime, state: str) -> Json:
    return {"name": name, "cron": f"{at.minute} {at.hour} * * *", "state": state}


def _unloads(many: Fleet, states: _States, *, calls: list[_Calls], fire: float) -> Generator[Finding]:
    before = states.changes.copy()
    many.audit.refresh()
    time.sleep(max(0.0, fire - time.time()))
    many.wait_for(lambda status: status.get("state") == "Unloaded", "the model is unloaded")
    many.audit.wait_for_silence(_REST_SECONDS)
    late = [at - fire for one in calls if (at := one.first(_UNLOAD)) is not None]
    assert len(late) == len(many.models), f"{len(late)} of {len(many.models)} pods were called"
    raw = Runs.of("fire → POST /model/unload at the pod", "s", late)
    note = f"95th percentile {percentile(late, 95):.2f} s; none came early: {min(late) >= 0}"
    yield Finding("schedule fire → unload call (maximum)", max(late), "s", at_most(1), (raw,), note)
    yield from _writes(many, states.changes - before, fire=fire)


def _writes(many: Fleet, changes: Counter[Model], *, fire: float) -> Generator[Finding]:
    since = [one for one in many.audit.writes if one.received >= fire]
    written = by_model(one for one in since if one.counts)
    unseen = [model for model in many.models if not changes[model]]
    assert not unseen, f"the watch missed the changes of {len(unseen)} models, such as {unseen[0]}"
    shares = [len(written.get(model, [])) / changes[model] for model in many.models]
    raw = Runs.of("by model", "", shares)
    note = f"{sum(changes.values())} state changes; writes: {by_kind(since)}; Events and Leases are not counted"
    yield Finding("API writes per state change (maximum)", max(shares), "", at_most(2), (raw,), note)


@contextmanager
def _watched(api: ApiServer) -> Generator[_States]:
    """Record every state change until the block ends, with a watch in a separate thread."""
    states, ended = _States(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            # After an error, restart the watch with the current state of all objects.
            with suppress(httpx.HTTPError):
                _follow(api, states, ended)
            time.sleep(_RETRY_SECONDS)

    thread = threading.Thread(target=watch, name="states", daemon=True)
    thread.start()
    try:
        yield states
    finally:
        ended.set()  # noticed at the next event, or when the API server stops


def _follow(api: ApiServer, states: _States, ended: threading.Event) -> None:
    query = {"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    with api.client().stream("GET", f"{API}/whispermodels", params=query, timeout=None) as answer:
        for line in answer.iter_lines():
            event = json.loads(line)
            if ended.is_set() or event["type"] == "ERROR":
                return
            if event["type"] in ("ADDED", "MODIFIED"):
                states.see(event["object"])
