"""Resident memory of the gateway: at rest, and with a hundred waiting uploads of 10 MB."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import httpx

from benchmarks.audio import upload_of_10_mb
from benchmarks.gateway_bench.site import BenchRun, Site, running_site
from benchmarks.measure import Finding, Runs, Watch, at_most

NAME = "memory"
TITLE = "Memory of the gateway"
_CLIENTS = 100
_LOOK_SECONDS = 0.05
_REST_SECONDS = 5.0
_WAIT_SECONDS = 300.0


def run(bench: BenchRun) -> Generator[Finding]:
    """Measure at rest, then let clients upload and wait for a pod that never starts."""
    audio = upload_of_10_mb(bench.audio)
    with running_site(bench) as site:
        site.kubelet.fate = "unstarted"
        # The unfinished uploads of one key take at most half of the places.
        site.model("base", queue={"maxWaiting": 2 * _CLIENTS})
        with Watch(site.rss, _LOOK_SECONDS) as rest:
            time.sleep(_REST_SECONDS)
        raw = Runs.of("at rest", "MB", rest.values)
        yield Finding("gateway at rest (RSS)", raw.median, "MB", at_most(100), (raw,))
        count = bench.count(_CLIENTS)
        with Watch(site.rss, _LOOK_SECONDS) as watch:
            _upload_and_wait(site, audio, count)
        both = Runs.of("operator", "MB", [site.operator_rss()]), Runs.of("gateway", "MB", [site.rss()])
        peak = Runs.of("during the uploads and after them", "MB", watch.values)
        claim = f"gateway while {count} uploads of 10 MB come in and wait (RSS, maximum)"
        yield Finding(claim, max(peak.values), "MB", at_most(130), (peak,))
        yield Finding("operator and gateway together", sum(one.median for one in both), "MB", at_most(200), both)


def _upload_and_wait(site: Site, audio: Path, count: int) -> None:
    """Upload from many clients at once, until all have been stored and wait for their answers."""
    content = audio.read_bytes()

    def send(_: int) -> None:
        with site.gateway.client() as client:
            upload = {"file": (audio.name, content)}
            answer = client.post("/v1/audio/transcriptions", files=upload, data={"model": "base"})
            # Cancelled below, once all wait.
            assert answer.status_code == HTTPStatus.CONFLICT, answer.text

    with ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(send, number) for number in range(count)]
        with site.gateway.client("auditor") as client:
            _wait_for_queue(client, count)
            time.sleep(_REST_SECONDS)
            for job in client.get("/jobs", params={"limit": "500"}).json()["jobs"]:
                client.delete(f"/jobs/{job['id']}").raise_for_status()
        for one in waiting:
            one.result(_WAIT_SECONDS)


def _wait_for_queue(client: httpx.Client, count: int) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while (stored := len(client.get("/jobs", params={"status": "queued", "limit": "500"}).json()["jobs"])) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stored} of {count} uploads were stored")
        time.sleep(0.5)
