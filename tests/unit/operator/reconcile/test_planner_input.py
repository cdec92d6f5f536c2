"""From an observation to the planner's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from testing.operator_harness import NOON, lease_of, observation_of, report_of, seconds, view_of
from testing.planner_cases import utc
from whisper_operator.reconcile.failures import Failure
from whisper_operator.reconcile.observation import Observation, PodView
from whisper_operator.reconcile.planner_input import planner_input
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Mode, State
from whispermodel.status import Status
from whispermodel.wire import Manual

UID = "uid-base-1"


def input_for(observation: Observation, status: Status | None = None, **known: Any) -> Observed:
    return planner_input(replace(observation, **known), status or Status())


class TestStates:
    @pytest.mark.parametrize(
        ("views", "lowest", "highest"),
        [
            pytest.param([], State.ZERO, State.ZERO, id="no pod"),
            pytest.param([view_of(State.LOADED)], State.LOADED, State.LOADED, id="one pod"),
            pytest.param([view_of(State.LOADED), view_of(State.UNLOADED)], State.UNLOADED, State.LOADED,
                         id="two pods that differ"),
            pytest.param([view_of(State.LOADED), view_of(None)], State.STARTING, State.LOADED,
                         id="one that has not been asked yet is starting"),
            pytest.param([view_of(State.LOADING), view_of(None, failure=Failure("Crash", "."))], State.FAILED,
                         State.LOADING, id="one that cannot start has failed"),
        ],
    )  # fmt: skip
    def test_model_state_is_its_lowest_pods(self, views: list[PodView], lowest: State, highest: State) -> None:
        found = input_for(observation_of(*views))
        assert (found.state, found.highest) == (lowest, highest)

    def test_leaving_pods_do_not_count(self) -> None:
        assert input_for(observation_of(leaving=2)).state is State.ZERO

    def test_model_is_warm_if_one_pod_has_a_zygote(self) -> None:
        warm = view_of(report=report_of(State.UNLOADED, depth="warm"))
        assert input_for(observation_of(view_of(State.UNLOADED), warm)).warm
        assert not input_for(observation_of(view_of(State.UNLOADED))).warm

    def test_planner_gets_target_and_starts_from_the_status(self) -> None:
        found = input_for(observation_of(), Status(target=State.LOADED, recent_start_seconds=(3.0, 2.0)))
        assert (found.target, found.start_seconds) == (State.LOADED, (3.0, 2.0))


class TestWork:
    def test_work_is_summed_over_the_pods(self) -> None:
        observation = observation_of(*(view_of(report=report_of(in_flight=count, queued=2)) for count in (0, 1, 2)))
        found = input_for(observation)
        assert (found.in_flight, found.waiting) == (3, 6)

    def test_work_began_with_the_latest_job(self) -> None:
        ages = (None, 100.0, 5.0)
        observation = observation_of(*(view_of(report=report_of(work_began_seconds=age)) for age in ages))
        assert input_for(observation).work_began == NOON - seconds(5)

    def test_demand_lease_counts_as_waiting_work(self) -> None:
        observation = observation_of(leases=(lease_of(renewed=NOON - seconds(14)), lease_of(renewed=NOON - seconds(1))))
        assert input_for(observation).waiting == 2

    @pytest.mark.parametrize("ago", [15, 16, 3600])
    def test_model_is_idle_since_its_lease_expired(self, ago: int) -> None:
        lease, ended = lease_of(renewed=NOON - seconds(ago)), NOON - seconds(ago - 15)
        found = input_for(observation_of(leases=(lease,), demand_ended_at=ended))
        assert (found.waiting, found.idle_since) == (0, NOON - seconds(ago - 15))

    def test_lease_without_times_is_ignored(self) -> None:
        empty = lease_of().model_copy(update={"spec": type(lease_of().spec)()})
        found = input_for(observation_of(leases=(empty,)))
        assert (found.waiting, found.idle_since) == (0, None)


class TestManual:
    POD = Manual(state=Mode.LOADED, at=utc("2026-03-02T09:00"))
    LEASE = '{"state": "Unloaded", "at": "2026-03-02T10:00:00Z"}'
    STATUS = ManualCommand(Mode.LOADED, utc("2026-03-02T11:00"))

    def manual(self, *, pod: bool = False, lease: bool = False, status: bool = False) -> ManualCommand | None:
        view = view_of(report=report_of(manual=self.POD if pod else None))
        leases = (lease_of(manual=self.LEASE),) if lease else ()
        return input_for(observation_of(view, leases=leases), Status(manual=self.STATUS if status else None)).manual

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            pytest.param({}, None, id="none"),
            pytest.param({"pod": True}, ManualCommand(Mode.LOADED, utc("2026-03-02T09:00")), id="to a pod"),
            pytest.param({"pod": True, "lease": True}, ManualCommand(Mode.UNLOADED, utc("2026-03-02T10:00")),
                         id="later through a gateway"),
            pytest.param({"pod": True, "lease": True, "status": True}, ManualCommand(Mode.LOADED, STATUS.at),
                         id="in the status, later than both"),
        ],
    )  # fmt: skip
    def test_latest_manual_command_wins(self, said: Mapping[str, bool], expected: ManualCommand | None) -> None:
        assert self.manual(**said) == expected

    @pytest.mark.parametrize("text", ["", "{", "null", '{"state": "Asleep", "at": "2026-03-02T10:00:00Z"}',
                                      '{"state": "Loaded", "at": "2026-03-02T10:00:00"}'])  # fmt: skip
    def test_invalid_annotation_is_ignored(self, text: str) -> None:
        assert input_for(observation_of(leases=(lease_of(manual=text),))).manual is None
