"""A request at zero with real servers as pods: where its time goes."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_run import PATHS
from benchmarks.gateway_bench.site import SHORTEST_IDLE, BenchRun, Site, running_site
from benchmarks.measure import Finding, Runs, at_most
from testing.audio_files import JFK
from testing.live_model import LiveModel
from testing.server_process import upload

NAME = "cold"
TITLE = "A request at zero, with real servers"
_REQUESTS = 10
_PHASE = re.compile(r"(\w+);dur=([\d.]+)")
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cold:
    """One request, in milliseconds."""

    total: float
    """As the client saw it."""
    start: float
    """From the pod's creation until it was reported to be ready."""
    load: float
    """The load of the model, as its server measured it."""
    work: float
    """The transcription, as the gateway measured it."""

    @property
    def rest(self) -> float:
        """What the gateway, the operator and Kubernetes' controllers took."""
        return self.total - self.start - self.load - self.work


def run(bench: BenchRun) -> Generator[Finding]:
    """Send requests, each when the model is at zero again."""
    with running_site(bench) as site:
        folder = bench.folder / "pods" / f"{time.time_ns()}"
        folder.mkdir(parents=True)
        site.kubelet.real_servers_in = folder
        model = site.model("base", idle=SHORTEST_IDLE, model=_model(PATHS["openai-whisper"]))
        cold = [_request(site, model) for _ in range(1 + bench.count(_REQUESTS))][1:]
    total, rest = Runs.of("total", "ms", [one.total for one in cold]), Runs.of("rest", "ms", [one.rest for one in cold])
    phases = [
        Runs.of("pod start", "ms", [one.start for one in cold]),
        Runs.of("load", "ms", [one.load for one in cold]),
        Runs.of("transcription", "ms", [one.work for one in cold]),
    ]
    note = "tiny.en, 11 s of speech; a pod's start is the start of its server: there is no image to pull"
    claim = "cold request beyond pod start, load and transcription, median"
    yield Finding(claim, rest.median, "ms", at_most(200), (rest, total, *phases), note)


def _model(path: Path) -> dict[str, object]:
    return {"size": "tiny.en", "device": "cpu", "source": {"path": str(path)}}


def _request(site: Site, model: LiveModel) -> Cold:
    model.wait_for(state="Zero", seconds=_SETTLE_SECONDS)
    deadline = time.monotonic() + _SETTLE_SECONDS
    while model.pods():
        if time.monotonic() > deadline:
            raise TimeoutError("the pod does not end")
        time.sleep(0.05)
    with site.gateway.client(**{"X-Whisper-Model": model.name}) as client:
        client.get("/health/live")
        sent_at, began = time.time(), time.perf_counter()
        answer = client.post("/v1/audio/transcriptions", files={"file": upload(JFK)})
        total = 1000 * (time.perf_counter() - began)
    answer.raise_for_status()
    phases = {name: float(value) for name, value in _PHASE.findall(answer.headers["Server-Timing"])}
    return Cold(total, _pod_start(site, sent_at), phases["load"], phases["transcribe"])


def _pod_start(site: Site, since: float) -> float:
    site.audit.refresh()
    pods = [one for one in site.audit.writes if one.received >= since and one.resource == "pods"]
    created = next(one.done for one in pods if one.verb == "create" and not one.subresource)
    ready = next(one.done for one in pods if one.subresource == "status")
    return 1000 * (ready - created)
