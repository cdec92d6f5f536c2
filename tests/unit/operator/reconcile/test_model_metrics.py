"""The metrics that name a model."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from testing.operator_harness import NOON, observation_of, seconds, view_of
from testing.planner_cases import spec_of
from whisper_cluster.pods import Memory
from whisper_operator.reconcile.events import lag_of_schedule
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.runtime.metrics import Metrics
from whispermodel.key import Key
from whispermodel.planning.modes import Reason
from whispermodel.states import State
from whispermodel.status import Condition, LastFailure, NextTransition, Status
from whispermodel.status import Memory as MemoryStatus

KEY, OTHER = Key("speech", "base"), Key("speech", "large")
SPEC = spec_of()
OBJECT = {"namespace", "whispermodel"}
FAMILIES = {
    "whispermodel_info": OBJECT | {"model", "engine"},
    "whispermodel_state": OBJECT | {"state"},
    "whispermodel_target": OBJECT | {"state"},
    "whispermodel_reason": OBJECT | {"reason"},
    "whispermodel_condition": OBJECT | {"type", "status"},
    "whispermodel_next_transition_timestamp_seconds": OBJECT | {"state", "by"},
    "whispermodel_transitions_total": OBJECT | {"to", "reason", "result"},
    "whispermodel_state_seconds_total": OBJECT | {"state"},
    "whispermodel_schedule_lag_seconds": OBJECT,
    "whispermodel_memory_bytes": OBJECT | {"kind"},
    "whispermodel_last_scrape_timestamp_seconds": OBJECT,
}
"""The names and labels that dashboards use."""

Labels = frozenset[tuple[str, str]]


def labels(**named: str) -> Labels:
    return frozenset(({"namespace": "speech", "whispermodel": "base"} | named).items())


def scraped(model_metrics: ModelMetrics) -> dict[str, dict[Labels, float]]:
    """Return the scraped values by name and labels."""
    registry = CollectorRegistry()
    registry.register(model_metrics)
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            key = frozenset(sample.labels.items())
            assert key not in series
            series[key] = sample.value
    return found


def status_of(state: State, **fields: Any) -> Status:
    condition = Condition(type="Ready", status="True", reason="Loaded", message=".", last_transition_time=NOON)
    return Status(
        **{"state": state, "target": State.LOADED, "reason": Reason.DEMAND, "conditions": (condition,), **fields}
    )


def metrics_after(*statuses: Status, apart: timedelta = timedelta(seconds=10), key: Key = KEY) -> ModelMetrics:
    """Return metrics after these statuses."""
    model_metrics = ModelMetrics()
    for number, (before, after) in enumerate(itertools.pairwise([Status(), *statuses])):
        now = NOON + number * apart
        model_metrics.record(key, SPEC, observation_of(now=now), after=after, lag=lag_of_schedule(before, after, now))
    return model_metrics


def full() -> ModelMetrics:
    due = NextTransition(time=NOON, state=State.UNLOADED, by="evening", summary="")
    memory = MemoryStatus(summary="1Mi", resident_bytes=1, gpu_bytes=2, gpu_reserved_bytes=3, observed_at=NOON)
    before = status_of(State.UNLOADED, target=State.UNLOADED, next_transition=due)
    after = status_of(State.LOADED, reason=Reason.SCHEDULE, next_transition=due, memory=memory)
    model_metrics = metrics_after(before)
    observation = observation_of(view_of(memory=Memory(1, 2, 3)), now=NOON + seconds(5))
    model_metrics.record(KEY, SPEC, observation, after=after, lag=seconds(5))
    return model_metrics


def test_metric_names_and_labels_are_stable() -> None:
    found = scraped(full())
    assert {name: {label for series in found[name] for label, _ in series} for name in found} == FAMILIES


def test_operators_own_metric_names_are_stable() -> None:
    metrics = Metrics(model_metrics=ModelMetrics(), queue_depth=lambda: 3)
    metrics.counted("patch", "whispermodels", 200)
    metrics.reconciled("success", 0.1)
    metrics.leads(1)
    registry = metrics.registry
    assert registry.get_sample_value("whisper_operator_queue_depth") == 3
    assert registry.get_sample_value("whisper_operator_leader") == 1
    assert registry.get_sample_value("whisper_operator_reconcile_seconds_count", {"result": "success"}) == 1
    request = {"verb": "patch", "resource": "whispermodels", "code": "200"}
    assert registry.get_sample_value("whisper_operator_api_requests_total", request) == 1
    assert "whisper_operator_build_info{" in generate_latest(registry).decode()


def test_no_models_no_series() -> None:
    assert scraped(ModelMetrics()) == {}


@pytest.mark.parametrize("state", State)
def test_exactly_one_state_is_set(state: State) -> None:
    series = scraped(metrics_after(status_of(state)))["whispermodel_state"]
    assert {key: value for key, value in series.items() if value} == {labels(state=state.value): 1.0}
    assert len(series) == len(State)


@pytest.mark.parametrize("target", [State.ZERO, State.UNLOADED, State.LOADED])
def test_exactly_one_target_is_set(target: State) -> None:
    series = scraped(metrics_after(status_of(State.ZERO, target=target)))["whispermodel_target"]
    assert {key: value for key, value in series.items() if value} == {labels(state=target.value): 1.0}
    assert len(series) == 3


@pytest.mark.parametrize("reason", Reason)
def test_current_reason_is_exported(reason: Reason) -> None:
    model_metrics = metrics_after(status_of(State.LOADED, reason=Reason.DEMAND), status_of(State.ZERO, reason=reason))
    assert scraped(model_metrics)["whispermodel_reason"] == {labels(reason=reason.value): 1.0}


def test_condition_is_exported_with_its_status() -> None:
    assert scraped(full())["whispermodel_condition"] == {labels(type="Ready", status="True"): 1}


def test_times_and_memory_are_in_base_units() -> None:
    found = scraped(full())
    coming = labels(state="Unloaded", by="evening")
    assert found["whispermodel_next_transition_timestamp_seconds"] == {coming: NOON.timestamp()}
    assert found["whispermodel_schedule_lag_seconds"] == {labels(): 5}
    assert found["whispermodel_last_scrape_timestamp_seconds"] == {labels(): NOON.timestamp() + 5}
    kinds = {"resident": 1, "gpu": 2, "gpu_reserved": 3}
    assert found["whispermodel_memory_bytes"] == {labels(kind=kind): value for kind, value in kinds.items()}


def test_model_without_pods_holds_no_memory() -> None:
    assert set(scraped(metrics_after(status_of(State.ZERO)))["whispermodel_memory_bytes"].values()) == {0}


def test_lag_and_last_scrape_are_kept() -> None:
    model_metrics = full()
    model_metrics.record(KEY, SPEC, observation_of(now=NOON + seconds(90)), after=status_of(State.LOADED))
    found = scraped(model_metrics)
    assert found["whispermodel_schedule_lag_seconds"] == {labels(): 5}
    assert found["whispermodel_last_scrape_timestamp_seconds"] == {labels(): NOON.timestamp() + 5}


def test_time_is_counted_per_state() -> None:
    states = (State.ZERO, State.STARTING, State.LOADED, State.LOADED)
    series = scraped(metrics_after(*(status_of(state) for state in states)))["whispermodel_state_seconds_total"]
    assert series == {labels(state="Zero"): 10, labels(state="Starting"): 10, labels(state="Loaded"): 10}


def test_clock_going_back_does_not_decrease_counters() -> None:
    model_metrics = metrics_after(status_of(State.LOADED), status_of(State.LOADED), apart=timedelta(seconds=-10))
    assert scraped(model_metrics)["whispermodel_state_seconds_total"] == {labels(state="Loaded"): 0}


def test_resting_states_are_counted_once() -> None:
    states = (State.UNLOADED, State.LOADING, State.LOADED, State.LOADED, State.UNLOADING, State.ZERO)
    series = scraped(metrics_after(*(status_of(state) for state in states)))["whispermodel_transitions_total"]
    assert series == {
        labels(to="Loaded", reason="demand", result="success"): 1,
        labels(to="Zero", reason="demand", result="success"): 1,
    }


def test_failures_are_counted_by_target() -> None:
    failures = [LastFailure(reason="Crash", message=".", time=NOON, count=count) for count in (1, 2, 2)]
    statuses = [status_of(State.FAILED, last_failure=failure) for failure in failures]
    series = scraped(metrics_after(status_of(State.ZERO), *statuses))["whispermodel_transitions_total"]
    assert series == {labels(to="Loaded", reason="demand", result="failure"): 2}


def test_failure_before_the_start_is_not_counted() -> None:
    failed = status_of(State.FAILED, last_failure=LastFailure(reason="Crash", message=".", time=NOON, count=9))
    assert "whispermodel_transitions_total" not in scraped(metrics_after(failed, failed))


def test_series_of_a_forgotten_model_disappear() -> None:
    model_metrics = full()
    model_metrics.record(OTHER, SPEC, observation_of(), after=status_of(State.ZERO))
    model_metrics.forget(KEY)
    named = {dict(series)["whispermodel"] for family in scraped(model_metrics).values() for series in family}
    assert named == {"large"}
    model_metrics.forget(OTHER)
    assert scraped(model_metrics) == {}
    model_metrics.forget(OTHER)


def test_invalid_spec_updates_conditions_and_state_time() -> None:
    model_metrics = metrics_after(status_of(State.LOADED))
    refused = Condition(type="Ready", status="False", reason="InvalidSpec", message=".", last_transition_time=NOON)
    model_metrics.record_invalid(KEY, status_of(State.LOADED, conditions=(refused,)), NOON + seconds(60))
    found = scraped(model_metrics)
    assert found["whispermodel_condition"] == {labels(type="Ready", status="False"): 1}
    assert found["whispermodel_state_seconds_total"] == {labels(state="Loaded"): 60}


def test_spec_that_was_never_valid_has_no_info() -> None:
    model_metrics = ModelMetrics()
    model_metrics.record_invalid(KEY, Status(conditions=status_of(State.ZERO).conditions), NOON)
    found = scraped(model_metrics)
    assert "whispermodel_info" not in found
    assert sum(found["whispermodel_state"].values()) == 0
    assert found["whispermodel_condition"] == {labels(type="Ready", status="True"): 1}


def test_info_follows_the_spec() -> None:
    model_metrics = metrics_after(status_of(State.ZERO))
    changed = spec_of(model={"size": "tiny", "engine": "faster-whisper"})
    model_metrics.record(KEY, changed, observation_of(), after=status_of(State.ZERO))
    assert list(scraped(model_metrics)["whispermodel_info"]) == [labels(model="tiny", engine="faster-whisper")]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(State), st.floats(-30, 3600), st.integers(0, 3), st.sampled_from(Reason)),
        min_size=2,
        max_size=8,
    )
)
def test_counters_never_decrease(steps: list[tuple[State, float, int, Reason]]) -> None:
    model_metrics, now, before, totals = ModelMetrics(), NOON, Status(), dict[tuple[str, Labels], float]()
    for state, passes, failures, reason in steps:
        now += seconds(passes)
        failure = LastFailure(reason="Crash", message=".", time=NOON, count=failures) if failures else None
        after = status_of(state, reason=reason, last_failure=failure)
        model_metrics.record(KEY, SPEC, observation_of(now=now), after=after, lag=lag_of_schedule(before, after, now))
        before = after
        for name, series in scraped(model_metrics).items():
            for key, value in series.items() if name.endswith("_total") else ():
                assert value >= totals.get((name, key), 0.0)
                totals[name, key] = value
    assert sum(scraped(model_metrics)["whispermodel_state"].values()) == 1
