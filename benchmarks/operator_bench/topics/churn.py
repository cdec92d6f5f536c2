"""A day's events, lists and scrapes at the real operator, one after the other instead of over 24 hours."""

from __future__ import annotations

import time
from collections.abc import Generator
from statistics import median

from benchmarks.measure import Finding, Runs, at_most
from benchmarks.operator_bench.audit import Model
from benchmarks.operator_bench.fleet import BenchRun, Fleet, fleet

NAME = "churn"
TITLE = "A day's events of 200 models at the real operator"
_MODELS = 200
_ROUNDS = 288
"""As many as there are relists in 24 hours, one every five minutes; here one every second."""
_WARM_UP = 6
"""A sixth of the rounds, which is four hours, is there to warm up."""
_LOOKS = 12
"""An hour's, whose median is weighed."""
_WAKES, _LEASE_SECONDS = 2, 1
_REST_SECONDS = 3.0
_SPEC = {"idle": {"unloadAfter": "1s", "scaleToZeroAfter": "1s"}}
_SERIES = 'whispermodel="'


def run(bench: BenchRun) -> Generator[Finding]:
    """Wake, edit, create, delete, list and scrape, and weigh; then delete everything."""
    rounds = bench.count(_ROUNDS)
    with bench.cluster() as api, fleet(api, bench.count(_MODELS), WHISPER_OPERATOR_RESYNC_SECONDS="1") as many:
        many.apply_all(_SPEC)
        many.start()
        many.audit.wait_for(lambda writes: len({one.model for one in writes if one.counts}) > 1, "it works", seconds=60)
        many.audit.wait_for_silence(_REST_SECONDS)
        held = [_round(many, number) for number in range(rounds)]
        yield _growth(many, held, warm_up=rounds // _WARM_UP)
        yield _leftovers(many)


def _round(many: Fleet, number: int) -> float:
    """Have happen what five minutes bring, in a second at least; return the memory held after it."""
    ends = time.monotonic() + 1.0
    count = len(many.models)
    for offset in range(_WAKES):
        many.demand(many.models[(number * _WAKES + offset) % count], seconds=_LEASE_SECONDS)
    many.apply(many.models[-1 - number % count], {**_SPEC, "queue": {"maxWaiting": 1 + number % 100}})
    many.apply(_passing(number), _SPEC)
    # Twice, as a garbage collector looks again at what was made anew for a model that had just been deleted.
    for earlier in range(max(0, number - 2), number):
        many.delete(_passing(earlier))
    many.operator.metrics()
    time.sleep(max(0.0, ends - time.monotonic()))
    return many.weigh()


def _passing(number: int) -> Model:
    """Name the model that is there for one round."""
    return "bench-0", f"passing-{number}"


def _growth(many: Fleet, held: list[float], *, warm_up: int) -> Finding:
    many.audit.refresh()
    writes = sum(one.counts for one in many.audit.writes)
    levels = [_level(held, end) for end in (warm_up, len(held) // 2, len(held))]
    raw = Runs.of("after warm-up, half and all", "MB", levels)
    relists = _requests(many.operator.metrics(), resource="whispermodels", verb="list")
    note = (
        f"{len(held)} rounds, the first {warm_up} to warm up, each with {_WAKES} wakes, an edit, a model created and "
        f"one deleted, and a scrape; {relists} lists of everything; {writes} writes of the operator, which it then sees"
    )
    claim = "growth of the operator over a day's events (RSS)"
    return Finding(claim, levels[-1] - levels[0], "MB", at_most(5), (raw,), note)


def _level(held: list[float], end: int) -> float:
    """Return the median of the looks up to one: a single look may fall into a list, which takes more for a moment."""
    return median(held[max(0, end - _LOOKS) : end])


def _leftovers(many: Fleet) -> Finding:
    """Delete all models and count the series that still name one."""
    for model in [*many.models, *(key for key in many.statuses() if key not in set(many.models))]:
        many.delete(model)
    deadline = time.monotonic() + 60
    while (left := many.operator.metrics().count(_SERIES)) and time.monotonic() < deadline:
        time.sleep(0.5)
    note = f"RSS {many.weigh():.1f} MB"
    return Finding("series of deleted models that are left", float(left), "", at_most(0), note=note)


def _requests(metrics: str, *, verb: str, resource: str) -> int:
    wanted = ("whisper_operator_api_requests_total", f'verb="{verb}"', f'resource="{resource}"')
    lines = [line for line in metrics.splitlines() if all(part in line for part in wanted)]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))
