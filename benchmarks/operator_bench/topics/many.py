"""A thousand WhisperModels at zero: time to converge, and reaction times afterwards."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from benchmarks.measure import Finding, Runs, Watch, at_most, timed
from benchmarks.operator_bench.audit import OPERATOR, Model, Write, by_kind, by_model
from benchmarks.operator_bench.fleet import BenchRun, Fleet, fleet, paced, percentile

NAME = "many"
TITLE = "A thousand WhisperModels"
_MODELS = 1000
_EDITS, _EDIT_EVERY = 400, 0.05
_BURST = 100
_WAKES, _WAKE_EVERY = 1000, 0.3
"""Five minutes, so that one resync is among them."""
_LONG = 3600
_SCRAPE_EVERY = 30.0
_REST_SECONDS = 3.0
_SPEC = {"idle": {"unloadAfter": "15m", "scaleToZeroAfter": "1h"}}
_EDITED = {**_SPEC, "queue": {"maxWaiting": 50}}
"""A setting of the pod template, so both the Deployment and the status change."""


def run(bench: BenchRun) -> Generator[Finding]:
    """Converge, edit, then wake up; the models stay at Zero, so there are no pods."""
    with bench.cluster() as api, fleet(api, bench.count(_MODELS)) as many:
        many.apply_all(_SPEC)
        yield from _convergence(many)
        with Watch(lambda: timed(many.operator.metrics)[0], _SCRAPE_EVERY) as scrapes:
            yield from _edits(bench, many)
            yield from _wakes(bench, many)
        took = Runs.of("GET /metrics", "s", scrapes.values)
        note = f"every {_SCRAPE_EVERY:g} s during all of the above; {len(many.operator.metrics().splitlines())} lines"
        yield Finding("scrape of the operator's metrics", took.median, "s", runs=(took,), note=note)
        held = Runs.of("after each part", "MB", many.rss)
        yield Finding("memory of the operator (RSS, maximum)", max(many.rss), "MB", at_most(200), (held,))


def _edits(bench: BenchRun, many: Fleet) -> Generator[Finding]:
    edited = many.models[: bench.count(_EDITS)]
    since = _rest(many)
    paced(edited, lambda model: many.apply(model, _EDITED), every=_EDIT_EVERY)
    _rest(many)
    yield _reaction(many, edited, since=since, how=f"{1 / _EDIT_EVERY:g} edits per second")
    burst = many.models[-bench.count(_BURST) :]
    since = _rest(many)
    many.apply_all(_EDITED, burst)
    _rest(many)
    yield _reaction(many, burst, since=since, how=f"{len(burst)} edits as fast as possible")


def _rest(many: Fleet) -> float:
    """Wait until the operator is idle; return the time of the last write."""
    many.audit.wait_for_silence(_REST_SECONDS)
    many.measure_memory()
    return many.audit.writes[-1].done


def _convergence(many: Fleet) -> Generator[Finding]:
    many.start()
    wanted = set(many.models)
    many.audit.wait_for(
        lambda writes: wanted <= {one.model for one in writes if _is_status(one)},
        "every model has a status",
        seconds=600,
    )
    cpu = many.cpu_seconds()
    _rest(many)
    first = {
        model: next(filter(_is_status, writes)).done
        for model, writes in by_model(many.audit.writes).items()
        if model in wanted
    }
    seconds = max(first.values()) - many.started_at
    note = (
        f"from the start of the process until every model has a status; {len(first) / seconds:.0f} models per second; "
        f"writes: {by_kind(many.audit.writes)}; CPU time of the operator {cpu:.1f} s"
    )
    yield Finding(f"first convergence of {len(first)} models", seconds, "s", note=note)


def _is_status(one: Write) -> bool:
    return one.touches("whispermodels", by=OPERATOR, subresource="status")


def _reaction(many: Fleet, edited: Sequence[Model], *, since: float, how: str) -> Finding:
    """Measure from the API server receiving an edit until the status write that follows it."""
    found = by_model(one for one in many.audit.writes if one.received >= since)
    waits: list[float] = []
    for model in edited:
        edit = next(one for one in found[model] if one.resource == "whispermodels" and one.user != OPERATOR)
        waits.append(
            next(one.done for one in found[model] if _is_status(one) and one.received > edit.received) - edit.received
        )
    raw = Runs.of("edit → status written", "s", waits)
    writes = sum(one.counts for model in edited for one in found[model])
    note = f"{how}; {writes / len(edited):.2f} writes per edit: the Deployment and the status"
    return Finding("event → status, 95th percentile", percentile(waits, 95), "s", at_most(1), (raw,), note)


def _wakes(bench: BenchRun, many: Fleet) -> Generator[Finding]:
    woken = many.models[: bench.count(_WAKES)]
    since = _rest(many)
    paced(woken, lambda model: many.demand(model, seconds=_LONG), every=_WAKE_EVERY)
    _rest(many)
    found = by_model(one for one in many.audit.writes if one.received >= since)
    waits = [1000 * _wait(found[model]) for model in woken]
    raw = Runs.of("demand Lease → Deployment", "ms", waits)
    writes = [sum(one.counts for one in found[model]) for model in woken]
    note = (
        f"one wake-up every {1000 * _WAKE_EVERY:g} ms; from the API server receiving the Lease until it receives the "
        "patch of the Deployment"
    )
    yield Finding(
        "wake signal → scale request, 99th percentile", percentile(waits, 99), "ms", at_most(100), (raw,), note
    )
    made = Runs.of("writes per wake-up, Zero → Starting", "", [float(count) for count in writes])
    yield Finding("writes per wake-up (maximum)", float(max(writes)), "", at_most(2), (made,))


def _wait(writes: Sequence[Write]) -> float:
    signal = next(one for one in writes if one.resource == "leases")
    return next(one.received for one in writes if one.touches("deployments", by=OPERATOR)) - signal.received
