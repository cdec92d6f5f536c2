"""An upload of 100 MB through the gateway, compared with the same upload to a pod's server."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import httpx

from benchmarks.audio import upload_of_10_mb, upload_of_100_mb
from benchmarks.bench_run import PATHS
from benchmarks.gateway_bench.site import BenchRun, running_site
from benchmarks.gateway_bench.topics.warm import instant
from benchmarks.measure import MIB, Finding, Runs, at_least, timed
from tools.server_process import serving

NAME = "upload"
TITLE = "An upload of 100 MB"
_UPLOADS = 15
_SERVER = {"MODEL": "tiny.en", "MODEL_PATH": str(PATHS["openai-whisper"]), "PRELOAD_MODEL": "true"}


def run(bench: BenchRun) -> Generator[Finding]:
    """Submit jobs to a server and to a gateway, alternating; each is cancelled at once."""
    audio = upload_of_10_mb(bench.audio) if bench.quick else upload_of_100_mb(bench.audio)
    with (
        running_site(bench) as site,
        serving(_SERVER, bench.folder / "server") as server,
        httpx.Client(base_url=server.url, timeout=120, trust_env=False) as direct,
        site.gateway.client() as through,
    ):
        site.kubelet.prepare = instant
        site.model("base", desiredState="Loaded").wait_for(state="Loaded")
        direct.post("/model/load").raise_for_status()
        both = [(_submitted(direct, audio), _submitted(through, audio)) for _ in range(1 + bench.count(_UPLOADS))][1:]
    size = audio.stat().st_size / MIB
    alone, with_gateway = ([size / pair[which] for pair in both] for which in (0, 1))
    raw = (Runs.of("through the gateway", "MiB/s", with_gateway), Runs.of("direct", "MiB/s", alone))
    note = f"{size:.0f} MiB, POST /jobs until its 202, stored and synced by both; alternating"
    yield Finding("rate through the gateway ÷ direct", raw[0].median / raw[1].median, "", at_least(0.9), raw, note)


def _submitted(client: httpx.Client, audio: Path) -> float:
    with audio.open("rb") as file:
        seconds, answer = timed(_post(client, audio.name, file))
    client.delete(f"/jobs/{answer.raise_for_status().json()['id']}").raise_for_status()
    return seconds


def _post(client: httpx.Client, name: str, file: object) -> Callable[[], httpx.Response]:
    return lambda: client.post("/jobs", files={"file": (name, file)})  # type: ignore[arg-type]
