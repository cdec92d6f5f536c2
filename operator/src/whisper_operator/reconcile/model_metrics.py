"""The metrics of each model: recorded at each reconciliation, read at each scrape, removed with the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from whisper_operator.reconcile.observation import Observation
from whispermodel.key import Key
from whispermodel.spec import Spec
from whispermodel.states import State
from whispermodel.status import Status

_OBJECT = ("namespace", "whispermodel")
_RESTING = (State.ZERO, State.UNLOADED, State.LOADED)


@dataclass(slots=True)
class _Row:
    """The figures of one model."""

    spec: Spec | None
    """The last valid spec; None: there has been none."""

    status: Status
    """The latest status."""

    recorded_at: datetime
    """When it was recorded."""

    transitions: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])
    """How many transitions there were, by target, reason and result."""

    seconds: dict[State, float] = field(default_factory=dict[State, float])
    """The time spent in each state, up to recorded_at."""

    lag: float | None = None
    """By how many seconds the last scheduled change was late."""

    scraped_at: datetime | None = None
    """When the pods last reported their memory."""

    def advance(self, status: Status, now: datetime) -> None:
        """Count the time up to now towards the previous state."""
        if self.status.state is not None:
            spent = max(0.0, (now - self.recorded_at).total_seconds())
            self.seconds[self.status.state] = self.seconds.get(self.status.state, 0.0) + spent
        self.status, self.recorded_at = status, now


class ModelMetrics(Collector):
    """Collects the metrics that name a model."""

    def __init__(self) -> None:
        self._rows: dict[Key, _Row] = {}

    def record(
        self, key: Key, spec: Spec, observation: Observation, *, after: Status, lag: timedelta | None = None
    ) -> None:
        """Record an observation of a model. after: its new status. lag: by how much a scheduled change was late."""
        row = self._rows.setdefault(key, _Row(spec, after, observation.now))
        reason = (after.reason or "unknown").lower()
        if after.state is not None and after.state is not row.status.state and after.state in _RESTING:
            row.transitions[after.state, reason, "success"] += 1
        if after.last_failure is not None and after.last_failure != row.status.last_failure:
            row.transitions[after.target or State.LOADED, reason, "failure"] += 1
        row.lag = lag.total_seconds() if lag is not None else row.lag
        row.scraped_at = observation.now if observation.memory else row.scraped_at
        row.spec = spec
        row.advance(after, observation.now)

    def record_invalid(self, key: Key, after: Status, now: datetime) -> None:
        """Record the status of a model whose spec is invalid: nothing else was observed."""
        self._rows.setdefault(key, _Row(None, after, now)).advance(after, now)

    def forget(self, key: Key) -> None:
        """Remove a model's series."""
        self._rows.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """Yield all families. Called at each scrape, in the thread of the scrape."""
        rows = [((key.namespace, key.name), row) for key, row in sorted(self._rows.copy().items())]
        yield _info(rows)
        yield from _states(rows)
        yield _conditions(rows)
        yield _next_transitions(rows)
        yield _transitions(rows)
        yield _state_seconds(rows)
        yield _lags(rows)
        yield from _memory(rows)


_Rows = list[tuple[tuple[str, str], _Row]]


def _info(rows: _Rows) -> Metric:
    family = InfoMetricFamily("whispermodel", "The spec of the model.", labels=_OBJECT)
    for names, row in rows:
        if row.spec:
            family.add_metric(names, {"model": row.spec.model.size, "engine": row.spec.model.engine.value})
    return family


def _states(rows: _Rows) -> Iterator[Metric]:
    """Yield state sets: one series for each state, 1 for the current one (OpenMetrics, StateSet)."""
    state = GaugeMetricFamily("whispermodel_state", "The observed state.", labels=(*_OBJECT, "state"))
    target = GaugeMetricFamily("whispermodel_target", "The target state.", labels=(*_OBJECT, "state"))
    why = GaugeMetricFamily("whispermodel_reason", "Why that is the target.", labels=(*_OBJECT, "reason"))
    for names, row in rows:
        for one in State:
            state.add_metric((*names, one), row.status.state is one)
        for one in (State.ZERO, State.UNLOADED, State.LOADED):
            target.add_metric((*names, one), row.status.target is one)
        # Only the current reason, as with conditions, to keep a scrape of a thousand models short.
        if row.status.reason:
            why.add_metric((*names, row.status.reason), 1)
    yield state
    yield target
    yield why


def _conditions(rows: _Rows) -> Metric:
    family = GaugeMetricFamily(
        "whispermodel_condition", "The status of each condition.", labels=(*_OBJECT, "type", "status")
    )
    for names, row in rows:
        # Only the current status: with all three, conditions would be half of a scrape.
        for condition in row.status.conditions:
            family.add_metric((*names, condition.type, condition.status), 1)
    return family


def _next_transitions(rows: _Rows) -> Metric:
    name, text = "whispermodel_next_transition_timestamp_seconds", "When the target changes next if no work arrives."
    family = GaugeMetricFamily(name, text, labels=(*_OBJECT, "state", "by"))
    for names, row in rows:
        if coming := row.status.next_transition:
            family.add_metric((*names, coming.state, coming.by), coming.time.timestamp())
    return family


def _transitions(rows: _Rows) -> Metric:
    labels = (*_OBJECT, "to", "reason", "result")
    family = CounterMetricFamily("whispermodel_transitions", "Transitions that succeeded or failed.", labels=labels)
    for names, row in rows:
        for key, count in row.transitions.copy().items():
            family.add_metric((*names, *key), count)
    return family


def _state_seconds(rows: _Rows) -> Metric:
    family = CounterMetricFamily("whispermodel_state_seconds", "Time spent in each state.", labels=(*_OBJECT, "state"))
    for names, row in rows:
        for state, seconds in row.seconds.copy().items():
            family.add_metric((*names, state), seconds)
    return family


def _lags(rows: _Rows) -> Metric:
    name, text = "whispermodel_schedule_lag_seconds", "How late the last scheduled change started."
    family = GaugeMetricFamily(name, text, labels=_OBJECT)
    for names, row in rows:
        if row.lag is not None:
            family.add_metric(names, row.lag)
    return family


def _memory(rows: _Rows) -> Iterator[Metric]:
    held = GaugeMetricFamily("whispermodel_memory_bytes", "Memory held by the pods.", labels=(*_OBJECT, "kind"))
    name, text = "whispermodel_last_scrape_timestamp_seconds", "When the pods last reported their memory."
    scraped = GaugeMetricFamily(name, text, labels=_OBJECT)
    for names, row in rows:
        memory = row.status.memory
        held.add_metric((*names, "resident"), memory.resident_bytes if memory else 0)
        held.add_metric((*names, "gpu"), memory.gpu_bytes if memory else 0)
        held.add_metric((*names, "gpu_reserved"), memory.gpu_reserved_bytes if memory else 0)
        if row.scraped_at:
            scraped.add_metric(names, row.scraped_at.timestamp())
    yield held
    yield scraped
