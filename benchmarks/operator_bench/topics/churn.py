"""A day's worth of events, resyncs and scrapes on the real operator, compressed into a few minutes."""

from __future__ import annotations

import time
from collections.abc import Generator
from statistics import median

from benchmarks.measure import Finding, Runs, at_most
from benchmarks.operator_bench.audit import Model
from benchmarks.operator_bench.fleet import BenchRun, Fleet, fleet

NAME = "churn"
TITLE = "A day's events of 200 models on the real operator"
_MODELS = 200
_ROUNDS = 288
"""The number of resyncs in 24 hours at one every five minutes; here there is one per second."""
_WARM_UP = 6
"""The first sixth of the rounds, or four hours, is warm-up."""
_SAMPLES = 12
"""An hour's samples, of which the median counts."""
_WAKES, _LEASE_SECONDS = 2, 1
_REST_SECONDS = 3.0
_SPEC = {"idle": {"unloadAfter": "1s", "scaleToZeroAfter": "1s"}}
_SERIES = 'whispermodel="'


def run(bench: BenchRun) -> Generator[Finding]:
    """Wake, edit, create, delete, list and scrape while measuring memory; then delete everything."""
    rounds = bench.count(_ROUNDS)
    with bench.cluster() as api, fleet(api, bench.count(_MODELS), WHISPER_OPERATOR_RESYNC_SECONDS="1") as many:
        many.apply_all(_SPEC)
        many.start()
        many.audit.wait_for(
            lambda writes: len({one.model for one in writes if one.counts}) > 1, "the operator writes", seconds=60
        )
        many.audit.wait_for_silence(_REST_SECONDS)
        held = [_round(many, number) for number in range(rounds)]
        yield _growth(many, held, warm_up=rounds // _WARM_UP)
        yield _leftovers(many)


def _round(many: Fleet, number: int) -> float:
    """Run the events of five minutes in at least a second; return the memory afterwards."""
    ends = time.monotonic() + 1.0
    count = len(many.models)
    for offset in range(_WAKES):
        many.demand(many.models[(number * _WAKES + offset) % count], seconds=_LEASE_SECONDS)
    many.apply(many.models[-1 - number % count], {**_SPEC, "queue": {"maxWaiting": 1 + number % 100}})
    many.apply(_temporary(number), _SPEC)
    # Delete twice: the operator may have recreated objects for a model that had just been deleted.
    for earlier in range(max(0, number - 2), number):
        many.delete(_temporary(earlier))
    many.operator.metrics()
    time.sleep(max(0.0, ends - time.monotonic()))
    return many.measure_memory()


def _temporary(number: int) -> Model:
    """Return the name of the model that exists for one round."""
    return "bench-0", f"temporary-{number}"


def _growth(many: Fleet, held: list[float], *, warm_up: int) -> Finding:
    many.audit.refresh()
    writes = sum(one.counts for one in many.audit.writes)
    levels = [_level(held, end) for end in (warm_up, len(held) // 2, len(held))]
    raw = Runs.of("after warm-up, half and all", "MB", levels)
    relists = _requests(many.operator.metrics(), resource="whispermodels", verb="list")
    note = (
        f"{len(held)} rounds, the first {warm_up} as warm-up, each with {_WAKES} wake-ups, an edit, a created and a "
        f"deleted model, and a scrape; {relists} resyncs; {writes} writes by the operator"
    )
    claim = "growth of the operator over a day's events (RSS)"
    return Finding(claim, levels[-1] - levels[0], "MB", at_most(5), (raw,), note)


def _level(held: list[float], end: int) -> float:
    """Return the median of the last samples: a single one may coincide with a resync, which briefly needs more."""
    return median(held[max(0, end - _SAMPLES) : end])


def _leftovers(many: Fleet) -> Finding:
    """Delete all models, and count the series that are left for them."""
    for model in [*many.models, *(key for key in many.statuses() if key not in set(many.models))]:
        many.delete(model)
    deadline = time.monotonic() + 60
    while (left := many.operator.metrics().count(_SERIES)) and time.monotonic() < deadline:
        time.sleep(0.5)
    note = f"RSS {many.measure_memory():.1f} MB"
    return Finding("remaining series of deleted models", float(left), "", at_most(0), note=note)


def _requests(metrics: str, *, verb: str, resource: str) -> int:
    wanted = ("whisper_operator_api_requests_total", f'verb="{verb}"', f'resource="{resource}"')
    lines = [line for line in metrics.splitlines() if all(part in line for part in wanted)]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))
