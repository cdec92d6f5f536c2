"""What is known of a model's pods, from what Kubernetes shows and what their servers say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from testing.operator_harness import (
    NOON,
    Answer,
    Calling,
    Server,
    always,
    lease_of,
    observation_of,
    pod_of,
    report_of,
    routes,
    seconds,
    view_of,
)
from testing.planner_cases import utc
from whisper_cluster.objects import ManualNote
from whisper_cluster.pods import Memory
from whisper_operator.reconcile.failures import Failure
from whisper_operator.reconcile.observation import Observation, PodView
from whisper_operator.reconcile.observe import observe_pods
from whisper_operator.reconcile.planner_input import planner_input
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand
from whispermodel.spec import Mode, State
from whispermodel.status import Manual, Status

UID = "uid-base-1"
SAID = {"state": "Loaded", "idle_seconds": 1.0, "in_flight": 0, "queued": 0}
METRICS = Answer(b'whisper_memory_bytes{process="worker",kind="proportional"} 7\n')
NOT_READY: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "False"}]}


def seen_in(observation: Observation, status: Status | None = None, **known: Any) -> Observed:
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
    def test_the_model_is_what_its_lowest_pod_is(self, views: list[PodView], lowest: State, highest: State) -> None:
        seen = seen_in(observation_of(*views))
        assert (seen.state, seen.highest) == (lowest, highest)

    def test_pods_that_leave_do_not_count(self) -> None:
        assert seen_in(observation_of(leaving=2)).state is State.ZERO

    def test_the_zygote_of_one_pod_is_warmth(self) -> None:
        warm = view_of(report=report_of(State.UNLOADED, depth="warm"))
        assert seen_in(observation_of(view_of(State.UNLOADED), warm)).warm
        assert not seen_in(observation_of(view_of(State.UNLOADED))).warm

    def test_what_the_status_remembers_goes_to_the_planner(self) -> None:
        seen = seen_in(observation_of(), Status(target=State.LOADED, recent_start_seconds=(3.0, 2.0)))
        assert (seen.target, seen.start_seconds) == (State.LOADED, (3.0, 2.0))


class TestSilence:
    @pytest.mark.parametrize(
        ("minutes", "state"),
        [
            pytest.param(0.0, State.LOADED, id="at first it is what it was"),
            pytest.param(4.99, State.LOADED, id="for five minutes"),
            pytest.param(5.0, State.FAILED, id="then it is given up"),
        ],
    )
    def test_a_silent_pod_is_what_it_was_when_it_last_spoke(self, minutes: float, state: State) -> None:
        silent = observation_of(view_of(None, unresponsive="timed out"))
        seen = seen_in(silent, last_states={UID: State.LOADED}, unresponsive_since=NOON - timedelta(minutes=minutes))
        assert seen.state is state
        assert seen.unknown_since == NOON - timedelta(minutes=minutes)

    def test_one_that_never_spoke_is_still_starting(self) -> None:
        assert (
            seen_in(observation_of(view_of(None, unresponsive="timed out")), unresponsive_since=NOON).state
            is State.STARTING
        )

    def test_those_that_speak_are_not_given_up_with_it(self) -> None:
        observation = observation_of(view_of(State.LOADED), view_of(None, name="base-2", unresponsive="timed out"))
        seen = seen_in(observation, unresponsive_since=NOON - timedelta(minutes=6))
        assert (seen.state, seen.highest) == (State.FAILED, State.LOADED)


class TestWork:
    def test_work_is_the_sum_over_the_pods(self) -> None:
        observation = observation_of(*(view_of(report=report_of(in_flight=count, queued=2)) for count in (0, 1, 2)))
        seen = seen_in(observation)
        assert (seen.in_flight, seen.waiting) == (3, 6)

    def test_work_began_when_the_latest_of_it_did(self) -> None:
        ages = (None, 100.0, 5.0)
        observation = observation_of(*(view_of(report=report_of(work_began_seconds=age)) for age in ages))
        assert seen_in(observation).work_began == NOON - seconds(5)

    def test_a_demand_lease_is_work_that_waits(self) -> None:
        observation = observation_of(leases=(lease_of(renewed=NOON - seconds(14)), lease_of(renewed=NOON - seconds(1))))
        assert seen_in(observation).waiting == 2

    @pytest.mark.parametrize("ago", [15, 16, 3600])
    def test_one_that_ran_out_is_not_and_the_model_is_idle_from_its_end(self, ago: int) -> None:
        seen = seen_in(observation_of(leases=(lease_of(renewed=NOON - seconds(ago)),)))
        assert (seen.waiting, seen.idle_since) == (0, NOON - seconds(ago - 15))

    def test_one_that_says_nothing_counts_for_nothing(self) -> None:
        empty = lease_of().model_copy(update={"spec": type(lease_of().spec)()})
        seen = seen_in(observation_of(leases=(empty,)))
        assert (seen.waiting, seen.idle_since) == (0, None)


class TestIdleSince:
    def worked(self, *idle: float) -> Observation:
        return observation_of(
            *(view_of(report=report_of(idle_seconds=age, work_began_seconds=age + 1)) for age in idle)
        )

    def test_a_model_that_never_worked_has_no_idle_time(self) -> None:
        assert seen_in(observation_of(view_of(report=report_of(idle_seconds=500.0)))).idle_since is None

    def test_the_last_work_of_all_pods_counts(self) -> None:
        assert seen_in(self.worked(300.0, 60.0)).idle_since == NOON - seconds(60)

    def test_a_demand_that_ended_later_than_the_work_counts(self) -> None:
        lease = lease_of(renewed=NOON - seconds(20))
        observation = observation_of(*self.worked(60.0).pods, leases=(lease,))
        assert seen_in(observation).idle_since == NOON - seconds(5)

    @pytest.mark.parametrize(
        ("age", "moved"),
        [
            pytest.param(58.1, False, id="a little later"),
            pytest.param(61.9, False, id="a little earlier"),
            pytest.param(200.0, False, id="earlier, from a pod that missed the last work"),
            pytest.param(58.0, True, id="two seconds later there was work"),
        ],
    )
    def test_a_time_that_merely_wavers_is_the_noted_one(self, age: float, moved: bool) -> None:
        noted = NOON - seconds(60)
        seen = seen_in(self.worked(age), Status(idle_since=noted))
        assert (seen.idle_since != noted) is moved

    def test_the_noted_time_survives_the_pods(self) -> None:
        assert seen_in(observation_of(), Status(idle_since=NOON)).idle_since == NOON

    def test_it_is_noted_in_whole_seconds(self) -> None:
        assert seen_in(self.worked(10.4)).idle_since == NOON - seconds(11)


class TestManual:
    POD = ManualNote(state=Mode.LOADED, at=utc("2026-03-02T09:00"))
    LEASE = '{"state": "Unloaded", "at": "2026-03-02T10:00:00Z"}'
    STATUS = Manual(state=Mode.LOADED, at=utc("2026-03-02T11:00"))

    def manual(self, *, pod: bool = False, lease: bool = False, status: bool = False) -> ManualCommand | None:
        view = view_of(report=report_of(manual=self.POD if pod else None))
        leases = (lease_of(manual=self.LEASE),) if lease else ()
        return seen_in(observation_of(view, leases=leases), Status(manual=self.STATUS if status else None)).manual

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            pytest.param({}, None, id="none"),
            pytest.param({"pod": True}, ManualCommand(Mode.LOADED, utc("2026-03-02T09:00")), id="to a pod"),
            pytest.param({"pod": True, "lease": True}, ManualCommand(Mode.UNLOADED, utc("2026-03-02T10:00")),
                         id="later through a gateway"),
            pytest.param({"pod": True, "lease": True, "status": True}, ManualCommand(Mode.LOADED, STATUS.at),
                         id="latest the one that was noted"),
        ],
    )  # fmt: skip
    def test_the_latest_command_counts(self, said: Mapping[str, bool], expected: ManualCommand | None) -> None:
        assert self.manual(**said) == expected

    @pytest.mark.parametrize("text", ["", "{", "null", '{"state": "Asleep", "at": "2026-03-02T10:00:00Z"}',
                                      '{"state": "Loaded", "at": "2026-03-02T10:00:00"}'])  # fmt: skip
    def test_an_annotation_that_cannot_be_read_counts_as_none(self, text: str) -> None:
        assert seen_in(observation_of(leases=(lease_of(manual=text),))).manual is None


class TestLook:
    async def test_a_pod_that_serves_is_asked_with_the_operators_key(self) -> None:
        server = always(Answer(SAID))
        async with Calling(server) as calls:
            [view] = await observe_pods(
                [pod_of()], calls, key="secret", last_states={UID: State.LOADED}, read_memory=False
            )
        assert view.report is not None
        assert (view.state, server.keys) == (State.LOADED, ["Bearer secret"])
        assert server.requests == ["GET /model/status"]

    @pytest.mark.parametrize(
        "status",
        [{"phase": "Pending"}, {"podIP": ""}, NOT_READY],
        ids=["pending", "without an address", "not ready yet"],
    )
    async def test_one_that_does_not_serve_yet_is_not_asked(self, status: dict[str, Any]) -> None:
        server = always(Answer(SAID))
        async with Calling(server) as calls:
            [view] = await observe_pods([pod_of(**status)], calls, key=None, last_states={}, read_memory=True)
        assert (view.state, view.address, server.requests) == (State.STARTING, None, [])

    async def test_one_that_answered_before_is_asked_though_it_is_not_ready_now(self) -> None:
        async with Calling(always(Answer(SAID))) as calls:
            [view] = await observe_pods(
                [pod_of(**NOT_READY)], calls, key=None, last_states={UID: State.LOADED}, read_memory=False
            )
        assert view.state is State.LOADED

    async def test_one_that_cannot_start_is_not_asked(self) -> None:
        server = always(Answer(SAID))
        waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
        async with Calling(server) as calls:
            [view] = await observe_pods(
                [pod_of(container=waiting)], calls, key=None, last_states={UID: State.LOADED}, read_memory=True
            )
        assert view.failure is not None
        assert (view.state, view.failure.reason, server.requests) == (State.FAILED, "ImagePull", [])

    async def test_one_that_answers_nonsense_is_silent_and_says_what_it_did(self) -> None:
        async with Calling(always(Answer(b"\x00<html>"))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={}, read_memory=True)
        assert view.unresponsive is not None
        assert "invalid response" in view.unresponsive
        assert (view.report, view.failure) == (None, None)

    async def test_one_that_refuses_the_key_is_silent(self) -> None:
        async with Calling(always(Answer({"detail": "A key is needed."}, status=401))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={}, read_memory=True)
        assert view.unresponsive == "A key is needed."

    async def test_a_failed_load_is_a_failure_in_the_servers_words(self) -> None:
        async with Calling(always(Answer({**SAID, "state": "Failed", "failure": "no space left"}))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={UID: State.FAILED}, read_memory=False)
        assert view.failure == Failure("LoadFailed", "no space left")

    @pytest.mark.parametrize(
        ("known", "scrape", "weighed"),
        [
            pytest.param({UID: State.LOADED}, False, False, id="not while nothing moves"),
            pytest.param({UID: State.LOADED}, True, True, id="when it is time"),
            pytest.param({UID: State.LOADING}, False, True, id="when its state has changed"),
            pytest.param({}, False, True, id="when it answers for the first time"),
        ],
    )
    async def test_memory_is_asked_for(self, known: dict[str, State], scrape: bool, weighed: bool) -> None:
        server = routes(status=Answer(SAID), metrics=METRICS)
        async with Calling(server) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states=known, read_memory=scrape)
        assert view.memory == (Memory(resident=7) if weighed else None)
        assert ("GET /metrics" in server.requests) is weighed

    async def test_one_that_tells_no_memory_has_told_its_state(self) -> None:
        async with Calling(routes(status=Answer(SAID), metrics=Answer(b"{", status=500))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={}, read_memory=True)
        assert (view.state, view.memory) == (State.LOADED, None)

    async def test_all_pods_are_asked_at_once(self) -> None:
        asked, everybody = 0, asyncio.Event()

        async def answer(_: str) -> Answer:
            nonlocal asked
            asked += 1
            if asked == 3:
                everybody.set()
            await everybody.wait()
            return Answer(SAID)

        pods = [pod_of(f"base-{number}") for number in range(3)]
        known = {f"uid-base-{number}": State.LOADED for number in range(3)}
        async with Calling(Server(answer)) as calls, asyncio.timeout(2):
            views = await observe_pods(pods, calls, key=None, last_states=known, read_memory=False)
        assert [view.state for view in views] == [State.LOADED] * 3


def test_the_memory_of_a_model_is_that_of_the_pods_that_told_it() -> None:
    told = [view_of(memory=Memory(5, 3, 4)), view_of(memory=Memory(7, 1, 2))]
    assert observation_of(*told).memory == Memory(12, 4, 6)
    assert observation_of(*told, view_of()).memory is None, "a part is no sum"
    assert observation_of(view_of()).memory is None
