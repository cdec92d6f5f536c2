"""What was also measured of other systems that scale to zero: herds, a killed proxy, causes, the way to zero."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import httpx

from benchmarks.gateway_bench.site import SHORTEST_IDLE, BenchRun, Site, running_site
from benchmarks.measure import Finding, Runs, at_least
from testing.audio_files import JFK
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.pod_stand_in import PodServer
from testing.server_process import upload

NAME = "peers"
TITLE = "Herds, a killed gateway, a missing image, and the way to zero"
_HERDS, _HERD = 5, 50
_HELD = 5
_ZEROS = 5
_PATIENCE_SECONDS = 60.0


def run(bench: BenchRun) -> Generator[Finding]:
    """Run each scenario on stand-in pods."""
    with running_site(bench) as site:
        model = site.model("base", idle=SHORTEST_IDLE)
        yield _herds(bench, site, model)
        yield _killed(site, model)
        yield _missing_image(site, model)
        yield _way_to_zero(bench, site, model)


def _at_zero(model: LiveModel) -> None:
    model.wait_for(state="Zero")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while model.pods():
        if time.monotonic() > deadline:
            raise TimeoutError("the pod does not end")
        time.sleep(0.02)


def _send(site: Site, key: str = "") -> httpx.Response | None:
    """Send a request; None: the connection was cut."""
    with site.gateway.client(**({"Idempotency-Key": key} if key else {})) as client:
        try:
            return client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "base"})
        except httpx.TransportError:
            return None


def _herds(bench: BenchRun, site: Site, model: LiveModel) -> Finding:
    answered, pods, took = 0, 0, list[float]()
    herds = bench.count(_HERDS)
    for _ in range(herds):
        _at_zero(model)
        site.kubelet.seen.clear()
        began = time.perf_counter()
        with ThreadPoolExecutor(_HERD) as pool:
            answers = list(pool.map(lambda _: _send(site), range(_HERD)))
        took.append(time.perf_counter() - began)
        answered += sum(answer is not None and answer.status_code == 200 for answer in answers)
        pods += len(site.kubelet.seen)
    raw = Runs.of("until the last answer", "s", took)
    note = f"{answered} of {herds * _HERD} answered with 200; {pods} pods for {herds} herds"
    return Finding(
        f"{_HERD} at once from zero: share answered", answered / herds / _HERD, "", at_least(1), (raw,), note
    )


def _killed(site: Site, model: LiveModel) -> Finding:
    """Kill the gateway while clients wait; they come back with their keys."""
    _at_zero(model)
    site.kubelet.prepare = _slow_load
    with ThreadPoolExecutor(_HELD) as pool:
        held = [pool.submit(_until_answered, site, f"key-{number}") for number in range(_HELD)]
        _wait_for_jobs(site, _HELD)
        site.gateway.stop(signal.SIGKILL)
        site.gateway.start()
        answered = sum(one.result(_PATIENCE_SECONDS) for one in held)
    site.kubelet.prepare = lambda _: None
    note = "kill -9 while they were held at zero; clients repeat their request under the same Idempotency-Key"
    return Finding(f"kill -9 with {_HELD} held: share answered", answered / _HELD, "", at_least(1), (), note)


def _slow_load(server: PodServer) -> None:
    server.load_seconds = 2.0


def _until_answered(site: Site, key: str) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = _send(site, key)
        if answer is not None and answer.status_code == 200:
            return True
        time.sleep(0.1)
    return False


def _wait_for_jobs(site: Site, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with site.gateway.client("auditor") as client:
        while sum(not job["finished_at"] for job in client.get("/jobs").json()["jobs"]) < count:
            if time.monotonic() > deadline:
                raise TimeoutError("the jobs were not stored")
            time.sleep(0.01)


def _missing_image(site: Site, model: LiveModel) -> Finding:
    _at_zero(model)
    site.kubelet.fate = "image-missing"
    began = time.perf_counter()
    answer = _send(site)
    seconds = time.perf_counter() - began
    _remove_pods(site.kubelet, model)
    assert answer is not None
    message = answer.json()["error"]["message"]
    note = f"{answer.status_code} with Retry-After {answer.headers.get('Retry-After')}: {message}"
    return Finding("image missing: until the client hears the cause", seconds, "s", None, (), note)


def _remove_pods(kubelet: Kubelet, model: LiveModel) -> None:
    kubelet.fate = "run"
    path = f"/api/v1/namespaces/{model.namespace}/pods"
    model.api.client().request("DELETE", path, json={"gracePeriodSeconds": 0, "kind": "DeleteOptions"})


def _way_to_zero(bench: BenchRun, site: Site, model: LiveModel) -> Finding:
    took: list[float] = []
    for _ in range(bench.count(_ZEROS)):
        _at_zero(model)
        answer = _send(site)
        answered = time.perf_counter()
        assert answer is not None
        answer.raise_for_status()
        _at_zero_again(model)
        took.append(time.perf_counter() - answered)
    raw = Runs.of("answer → no pod left", "s", took)
    note = "idle: {unloadAfter: 1s, scaleToZeroAfter: 1s}, the shortest that the schema allows"
    return Finding("idle → zero, shortest settings", raw.median, "s", None, (raw,), note)


def _at_zero_again(model: LiveModel) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while model.deployment()["spec"]["replicas"] or model.pods():
        if time.monotonic() > deadline:
            raise TimeoutError("the model does not go back to zero")
        time.sleep(0.02)
