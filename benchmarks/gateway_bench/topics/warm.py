"""What the gateway adds to a request when the model is loaded, one at a time and twenty at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.gateway_bench.direct import Direct
from benchmarks.gateway_bench.site import BenchRun, Site, running_site
from benchmarks.measure import Bound, Finding, Runs, at_most, timed
from benchmarks.operator_bench.fleet import percentile
from testing.audio_files import JFK
from testing.live_model import LiveModel
from testing.pod_stand_in import PodServer
from testing.server_process import upload

NAME = "warm"
TITLE = "What the gateway adds when the model is loaded"
_REQUESTS = 300
_AT_ONCE = 20
_WARM_UP = 20
_NOTE = (
    "11 s of speech, 1.15 MB, to a stand-in pod that does no work; alternating; direct: the call that the gateway "
    "makes, without a job; through: POST /v1/audio/transcriptions with its durable job"
)


def instant(server: PodServer) -> None:
    """Prepare a stand-in whose jobs take no time."""
    server.load_seconds, server.execute.sections = 0.0, 1


def run(bench: BenchRun) -> Generator[Finding]:
    """Send requests directly and through the gateway, alternating."""
    with running_site(bench) as site:
        site.kubelet.prepare = instant
        model = site.model("base", desiredState="Loaded")
        model.wait_for(state="Loaded")
        yield from _one_at_a_time(bench, site, model)
        yield _many(bench, site, model)


def _one_at_a_time(bench: BenchRun, site: Site, model: LiveModel) -> Generator[Finding]:
    audio = JFK.read_bytes()
    direct, through = Direct.to(site, model), _through(site)
    both = [_pair(lambda: direct.execute(audio), through) for _ in range(_WARM_UP + bench.count(_REQUESTS))][_WARM_UP:]
    alone, with_gateway = ([1000 * pair[which] for pair in both] for which in (0, 1))
    raw = (Runs.of("through the gateway", "ms", with_gateway), Runs.of("direct", "ms", alone))
    yield _added("p50", 50, with_gateway, alone, bound=at_most(5), raw=raw)
    yield _added("p99", 99, with_gateway, alone, bound=None, raw=())


def _pair(direct: Callable[[], None], through: Callable[[], None]) -> tuple[float, float]:
    return timed(direct)[0], timed(through)[0]


def _added(
    name: str,
    share: int,
    through: list[float],
    direct: list[float],
    *,
    bound: Bound | None,
    raw: tuple[Runs, ...],
) -> Finding:
    value = percentile(through, share) - percentile(direct, share)
    return Finding(f"added to a short request, {name}", value, "ms", bound, raw, _NOTE if raw else "")


def _through(site: Site) -> Callable[[], None]:
    client = site.gateway.client()

    def send() -> None:
        answer = client.post("/v1/audio/transcriptions", files={"file": upload(JFK)}, data={"model": "base"})
        answer.raise_for_status()

    return send


def _many(bench: BenchRun, site: Site, model: LiveModel) -> Finding:
    audio, count = JFK.read_bytes(), bench.count(_REQUESTS)
    direct, through = Direct.to(site, model), _through(site)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        alone = [1000 * one[0] for one in pool.map(lambda _: timed(lambda: direct.execute(audio)), range(count))]
        both = [1000 * one[0] for one in pool.map(lambda _: timed(through), range(count))]
    raw = (Runs.of("through the gateway", "ms", both), Runs.of("direct", "ms", alone))
    note = f"p99 {percentile(both, 99) - percentile(alone, 99):.0f} ms; a pod runs one job at a time, also directly"
    value = percentile(both, 50) - percentile(alone, 50)
    return Finding(f"added to a short request, {_AT_ONCE} at a time, p50", value, "ms", None, raw, note)
