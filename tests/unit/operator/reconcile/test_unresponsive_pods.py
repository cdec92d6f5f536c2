"""Pods that do not respond, and the state that they count with."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from testing.operator_harness import NOON, observation_of, seconds, view_of
from whisper_operator.reconcile.planner_input import planner_input
from whisper_operator.reconcile.unresponsive_pods import PodResponses
from whispermodel.planning.decision import Observed
from whispermodel.states import State
from whispermodel.status import Status

FIRST, SECOND = "uid-base-1", "uid-base-2"
SILENT = view_of(None, unresponsive="timed out")
SILENT_TOO = view_of(None, name="base-2", unresponsive="timed out")


class TestResponses:
    def test_last_state_of_each_pod_is_kept_while_it_exists(self) -> None:
        responses = PodResponses()
        responses.record([view_of(State.LOADED)], NOON)
        responses.record([SILENT], NOON)
        assert responses.last_states == {FIRST: State.LOADED}
        responses.record([view_of(State.UNLOADED, name="base-2")], NOON)
        assert responses.last_states == {SECOND: State.UNLOADED}

    def test_unresponsive_since_the_first_missing_response(self) -> None:
        responses = PodResponses()
        for second in range(3):
            responses.record([SILENT], NOON + seconds(second))
        assert responses.unresponsive_since == {FIRST: NOON}
        responses.record([view_of()], NOON + seconds(9))
        assert responses.unresponsive_since == {}

    def test_each_pod_is_timed_by_itself(self) -> None:
        responses = PodResponses()
        responses.record([SILENT, view_of(name="base-2")], NOON)
        responses.record([SILENT, SILENT_TOO], NOON + seconds(290))
        assert responses.unresponsive_since == {FIRST: NOON, SECOND: NOON + seconds(290)}

    def test_starting_pod_is_not_unresponsive(self) -> None:
        responses = PodResponses()
        responses.record([view_of(None)], NOON)
        assert responses.unresponsive_since == {}


def input_with(*silent_minutes: float, last: State | None = State.LOADED) -> Observed:
    """Return the planner's input for pods that have been silent for so long; before that, they were in a state."""
    uids = (FIRST, SECOND)[: len(silent_minutes)]
    observation = replace(
        observation_of(*(SILENT, SILENT_TOO)[: len(silent_minutes)]),
        last_states=dict.fromkeys(uids, last) if last else {},
        unresponsive_since={
            uid: NOON - timedelta(minutes=minutes) for uid, minutes in zip(uids, silent_minutes, strict=True)
        },
    )
    return planner_input(observation, Status())


class TestEffectiveState:
    @pytest.mark.parametrize(
        ("minutes", "state"),
        [
            pytest.param(0.0, State.LOADED, id="at first it is what it was"),
            pytest.param(4.99, State.LOADED, id="for five minutes"),
            pytest.param(5.0, State.FAILED, id="then it is given up"),
        ],
    )
    def test_unresponsive_pod_keeps_its_last_state_for_five_minutes(self, minutes: float, state: State) -> None:
        found = input_with(minutes)
        assert found.state is state
        assert found.unresponsive_since == NOON - timedelta(minutes=minutes)

    def test_pod_that_fell_silent_later_is_given_up_later(self) -> None:
        found = input_with(6.0, 1.0)
        assert (found.state, found.highest) == (State.FAILED, State.LOADED)
        assert found.unresponsive_since == NOON - timedelta(minutes=1), "it may still be working"

    def test_pod_that_never_responded_is_starting(self) -> None:
        assert input_with(0.0, last=None).state is State.STARTING

    def test_responsive_pods_keep_their_state(self) -> None:
        observation = observation_of(view_of(State.LOADED), SILENT_TOO)
        found = planner_input(replace(observation, unresponsive_since={SECOND: NOON - timedelta(minutes=6)}), Status())
        assert (found.state, found.highest) == (State.FAILED, State.LOADED)
