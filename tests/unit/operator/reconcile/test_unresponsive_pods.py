"""Pods that do not respond, and the state that they count with."""

from __future__ import annotations

from datetime import timedelta

import pytest

from testing.operator_harness import NOON, observation_of, seconds, view_of
from whisper_operator.reconcile.planner_input import planner_input
from whisper_operator.reconcile.unresponsive_pods import PodResponses
from whispermodel.planning.decision import Observed
from whispermodel.states import State
from whispermodel.status import Status

FIRST = "uid-base-1"
SILENT = view_of(None, unresponsive="timed out")


class TestResponses:
    def test_last_state_of_each_pod_is_kept_while_it_exists(self) -> None:
        responses = PodResponses()
        responses.record([view_of(State.LOADED)], NOON)
        responses.record([SILENT], NOON)
        assert responses.last_states == {FIRST: State.LOADED}
        responses.record([view_of(State.UNLOADED, name="base-2")], NOON)
        assert responses.last_states == {"uid-base-2": State.UNLOADED}

    def test_unresponsive_since_the_first_missing_response(self) -> None:
        responses = PodResponses()
        for second in range(3):
            responses.record([SILENT], NOON + seconds(second))
        assert responses.unresponsive_since == NOON
        responses.record([view_of()], NOON + seconds(9))
        assert responses.unresponsive_since is None

    def test_starting_pod_is_not_unresponsive(self) -> None:
        responses = PodResponses()
        responses.record([view_of(None)], NOON)
        assert responses.unresponsive_since is None


def input_with(minutes: float, *, last: State | None = State.LOADED) -> Observed:
    """Return the planner's input for a pod that has been silent for so long; before that, it was in a state."""
    observation = observation_of(
        SILENT, last_states={FIRST: last} if last else {}, unresponsive_since=NOON - timedelta(minutes=minutes)
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

    def test_pod_that_never_responded_is_starting(self) -> None:
        assert input_with(0.0, last=None).state is State.STARTING

    def test_responsive_pods_keep_their_state(self) -> None:
        observation = observation_of(
            view_of(State.LOADED, name="base-2"), SILENT, unresponsive_since=NOON - timedelta(minutes=6)
        )
        found = planner_input(observation, Status())
        assert (found.state, found.highest) == (State.FAILED, State.LOADED)
