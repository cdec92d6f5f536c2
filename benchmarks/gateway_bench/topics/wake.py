"""How fast a request wakes a model at zero, and how many writes that takes; stand-in pods."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.gateway_bench.site import SHORTEST_IDLE, BenchRun, Site, running_site
from benchmarks.gateway_bench.topics.warm import instant
from benchmarks.measure import Finding, Runs, at_most
from benchmarks.operator_bench.audit import OPERATOR, Write
from benchmarks.operator_bench.fleet import percentile
from testing.audio_files import JFK
from testing.live_model import LiveModel
from testing.pod_stand_in import PodServer
from testing.server_process import upload

NAME = "wake"
TITLE = "Waking a model at zero"
GATEWAY = "gateway"
_MODELS = 5
_WAKES = 60
_POD_START_SECONDS = 1.5
"""Longer than an upload takes: the pod must not wait for the job."""
_SETTLE_SECONDS = 60.0
_OUR_USERS = (GATEWAY, OPERATOR)


class Calls(list[str]):
    """The calls that a pod received, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.executed_at: float | None = None
        """When the first job's connection came, in seconds since 1970."""

    def append(self, call: str) -> None:
        if call == "POST /execute" and self.executed_at is None:
            self.executed_at = time.time()
        super().append(call)


@dataclass(frozen=True, slots=True)
class Wake:
    """One request that met a model at zero. Times are in seconds since 1970."""

    sent_at: float
    """Before its first byte was sent."""
    answered_at: float
    """When the answer was complete."""
    executed_at: float
    """When the pod was called."""
    writes: Sequence[Write]
    """All writes meanwhile about the model's objects."""

    @property
    def scaled_at(self) -> float:
        """When the Deployment was scaled."""
        return next(one.done for one in self.writes if one.touches("deployments", by=OPERATOR))

    @property
    def ready_at(self) -> float:
        """When the pod was reported to be ready."""
        return next(one.done for one in self.writes if one.touches("pods", by="admin", subresource="status"))


def run(bench: BenchRun) -> Generator[Finding]:
    """Wake models in turn; each goes back to zero by itself."""
    with running_site(bench) as site:
        site.kubelet.prepare, site.kubelet.start_seconds = with_clock, _POD_START_SECONDS
        models = [site.model(f"model-{number}", idle=SHORTEST_IDLE) for number in range(_MODELS)]
        woken = [_wake(site, models[number % _MODELS]) for number in range(_MODELS + bench.count(_WAKES))][_MODELS:]
    scaled = [1000 * (one.scaled_at - one.sent_at) for one in woken]
    raw = Runs.of("first byte of the request → Deployment scaled", "ms", scaled)
    yield Finding("headers → Deployment scaled, median", raw.median, "ms", at_most(20), (raw,))
    yield Finding("headers → Deployment scaled, 99th percentile", percentile(scaled, 99), "ms", at_most(100))
    sent = Runs.of("pod ready → POST /execute reaches it", "ms", [1000 * (w.executed_at - w.ready_at) for w in woken])
    yield Finding("pod ready → first byte sent to it, median", sent.median, "ms", at_most(30), (sent,))
    yield _writes(woken)


def with_clock(server: PodServer) -> None:
    """Prepare a stand-in whose jobs take no time, and that notes when it is called."""
    instant(server)
    server.calls = Calls()


def _wake(site: Site, model: LiveModel) -> Wake:
    model.wait_for(state="Zero", seconds=_SETTLE_SECONDS)
    _wait_for_silence(site, model)
    before = {*site.kubelet.seen}
    with site.gateway.client(**{"X-Whisper-Model": model.name}) as client:
        client.get("/health/live")  # Opens the connection.
        sent_at = time.time()
        client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}).raise_for_status()
        answered_at = time.time()
    [name] = {*site.kubelet.seen} - before
    server = site.kubelet.seen[name]
    assert isinstance(server.calls, Calls)
    assert server.calls.executed_at is not None
    site.audit.refresh()
    writes = [one for one in site.audit.writes if sent_at <= one.received <= answered_at and _is_about(one, model)]
    return Wake(sent_at, answered_at, server.calls.executed_at, writes)


def _is_about(one: Write, model: LiveModel) -> bool:
    namespace, name = one.model
    return namespace == model.namespace and name.startswith(model.name)


def _wait_for_silence(site: Site, model: LiveModel) -> None:
    """Wait until the demand for the last job has been declared to be over, and its pod is gone."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while model.pods() or _is_demanded(model):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{model.name} does not come to rest")
        time.sleep(0.05)
    site.audit.wait_for_silence(1.0)


def _is_demanded(model: LiveModel) -> bool:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{model.namespace}/leases"
    leases = model.api.client().get(path).raise_for_status().json()["items"]
    mine = [one for one in leases if one["metadata"]["name"].startswith(f"{model.name}-")]
    return any(one["spec"].get("leaseDurationSeconds", 0) > 1 for one in mine)


def _writes(woken: Iterable[Wake]) -> Finding:
    ours = [[one for one in wake.writes if one.user in _OUR_USERS] for wake in woken]
    raw = Runs.of("by gateway and operator", "", [float(len(writes)) for writes in ours])
    everybody = Runs.of("by all, Kubernetes' controllers included", "", [float(len(wake.writes)) for wake in woken])
    kinds = Counter(f"{one.user}: {one.resource}/{one.subresource}".removesuffix("/") for one in ours[-1])
    note = f"until the answer; the last: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
    return Finding("API writes of one wake, median", raw.median, "", at_most(6), (raw, everybody), note)
