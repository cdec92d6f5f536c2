"""Latency of the health endpoint under full load, and fairness between waiting requests."""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from benchmarks.audio import SPEECH, dense
from benchmarks.bench_run import BenchRun, Client
from benchmarks.measure import Finding, Runs, at_least, at_most
from benchmarks.prober import probing

NAME = "liveness"
TITLE = "Health while a transcription uses all cores and 8 requests wait"
_WAITING = 8
_SECONDS = 150


def run(bench: BenchRun) -> Generator[Finding]:
    """Start a long transcription, queue 8 requests behind it, and probe the health endpoint until all are answered."""
    audio = dense(bench.audio, 23 if bench.quick else _SECONDS)
    with bench.server() as client:
        client.transcribe(SPEECH)
        with probing(client.http.base_url.host, client.http.base_url.port or 80) as seen:
            answered = _answers(client, audio_bytes=audio.read_bytes())
    p99 = statistics.quantiles(seen, n=100, method="inclusive")[98]
    raw = Runs.of("GET /health/live", "ms", seen)
    yield Finding("/health/live, 99th percentile at 10 Hz", p99, "ms", at_most(20), (raw,))
    gaps = [later - earlier for earlier, later in pairwise(answered)]
    share = min(gaps) / statistics.mean(gaps)
    times = ", ".join(f"{seconds:.1f}" for seconds in answered)
    claim = f"{_WAITING} waiting requests, answered one after the other: shortest gap ÷ mean gap"
    yield Finding(claim, share, "", at_least(0.25), (Runs.of("gaps", "s", gaps),), f"answered after {times} s")


def _answers(client: Client, *, audio_bytes: bytes) -> list[float]:
    """Return when each queued request was answered, in seconds after they were sent."""
    with ThreadPoolExecutor(_WAITING + 1) as clients:
        long = clients.submit(_post, client, audio_bytes)
        _wait_until_running(client)
        began = time.perf_counter()
        waiting = [clients.submit(_post, client, SPEECH.read_bytes()) for _ in range(_WAITING)]
        long.result()
        return sorted(future.result() - began for future in waiting)


def _post(client: Client, audio: bytes) -> float:
    client.http.post("/v1/audio/transcriptions", files={"file": ("speech", audio)}).raise_for_status()
    return time.perf_counter()


def _wait_until_running(client: Client) -> None:
    deadline = time.monotonic() + 30
    while client.http.get("/model/status").json()["in_flight"] == 0:
        assert time.monotonic() < deadline, "the transcription did not start"
        time.sleep(0.01)
