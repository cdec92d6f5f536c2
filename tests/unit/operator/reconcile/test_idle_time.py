"""When a model's idle time began."""

from __future__ import annotations

from datetime import datetime

import pytest

from testing.operator_harness import NOON, observation_of, report_of, seconds, view_of
from whisper_operator.reconcile.idle_time import idle_since
from whisper_operator.reconcile.observation import Observation
from whispermodel.status import Status


def since(observation: Observation, status: Status | None = None) -> datetime | None:
    return idle_since(observation, status or Status())


def worked(*idle: float) -> Observation:
    return observation_of(*(view_of(report=report_of(idle_seconds=age, work_began_seconds=age + 1)) for age in idle))


def test_model_without_work_has_no_idle_time() -> None:
    assert since(observation_of(view_of(report=report_of(idle_seconds=500.0)))) is None


def test_latest_work_of_all_pods_counts() -> None:
    assert since(worked(300.0, 60.0)) == NOON - seconds(60)


def test_demand_that_ended_after_the_work_counts() -> None:
    observation = observation_of(*worked(60.0).pods, demand_ended_at=NOON - seconds(5))
    assert since(observation) == NOON - seconds(5)


@pytest.mark.parametrize(
    ("age", "moved"),
    [
        pytest.param(58.1, False, id="a little later"),
        pytest.param(61.9, False, id="a little earlier"),
        pytest.param(200.0, False, id="earlier, from a pod that missed the last work"),
        pytest.param(58.0, True, id="two seconds later there was work"),
    ],
)
def test_jitter_keeps_the_known_time(age: float, moved: bool) -> None:
    known = NOON - seconds(60)
    found = since(worked(age), Status(idle_since=known))
    assert (found != known) is moved


def test_known_time_survives_the_pods() -> None:
    assert since(observation_of(), Status(idle_since=NOON)) == NOON


def test_idle_time_is_in_whole_seconds() -> None:
    assert since(worked(10.4)) == NOON - seconds(11)
