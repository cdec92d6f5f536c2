"""Status reads at 500 per second while the gateway has one core."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.gateway_bench.requester import at_a_steady_rate
from benchmarks.gateway_bench.site import BenchRun, running_site
from benchmarks.gateway_bench.topics.warm import instant
from benchmarks.measure import Finding, Runs, at_most
from benchmarks.operator_bench.fleet import percentile
from testing.audio_files import JFK
from testing.server_process import upload

NAME = "reads"
TITLE = "Status reads at 500 per second on one core"
_PER_SECOND = 500
_SECONDS = 20.0


def run(bench: BenchRun) -> Generator[Finding]:
    """Read a job, and a model's status."""
    with running_site(bench) as site:
        site.kubelet.prepare = instant
        site.model("base", desiredState="Loaded").wait_for(state="Loaded")
        with site.gateway.client() as client:
            sent = client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "base"})
        job = sent.raise_for_status().headers["X-Job-Id"]
        seconds = 3.0 if bench.quick else _SECONDS
        for what, path in (("GET /jobs/{id}", f"/jobs/{job}"), ("GET /model/status", "/model/status")):
            with site.on_one_core():
                url = f"{site.gateway.url}{path}"
                took = at_a_steady_rate(url, "ana", per_second=_PER_SECOND, seconds=seconds)
            raw = Runs.of("from the instant at which each was due", "ms", took)
            yield Finding(f"{what}, 99th percentile", percentile(took, 99), "ms", at_most(10), (raw,))
