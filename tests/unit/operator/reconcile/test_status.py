"""The next status of a model: what is kept, what moves, and what is worth a write."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.operator_harness import NOON, observation_of, plan_of, report_of, seconds, view_of
from testing.planner_cases import DAY, by_hand, utc
from whisper_cluster.pods import Memory
from whisper_operator.reconcile.conditions import ConditionInputs, conditions, unreadable
from whisper_operator.reconcile.failures import Failure
from whisper_operator.reconcile.observation import Observation
from whisper_operator.reconcile.status import (
    StatusInputs,
    Unreported,
    as_conditions,
    as_json,
    is_due,
    next_status,
    whole,
)
from whispermodel.catalog import Device
from whispermodel.conditions import ConditionType
from whispermodel.planning.modes import Reason
from whispermodel.spec import Mode, State
from whispermodel.status import LastFailure, LastLoad, LastUnload, Status
from whispermodel.status import Memory as MemoryStatus

MIB = 2**20
LATER = NOON + timedelta(hours=1)


def inputs_of(observation: Observation | None = None, **parts: Any) -> StatusInputs:
    seen = observation or observation_of(view_of(State.LOADED))
    state = parts.get("state", State.LOADED)
    plan = parts.pop("plan", plan_of(state, desiredState="Loaded"))
    fields: dict[str, Any] = {
        "generation": 3,
        "state": state,
        "plan": plan,
        "observation": seen,
        "desired_replicas": 1,
        "spec_since": NOON,
        "idle_since": None,
        "manual": None,
        "unreported": Unreported(),
        "findings": tuple(conditions(ConditionInputs(state, plan, seen))),
    }
    return StatusInputs(**{**fields, **parts})


def holding(resident: int, *, gpu: int = 0, now: datetime = NOON) -> Observation:
    return observation_of(view_of(State.LOADED, memory=Memory(resident, gpu, gpu)), now=now)


def memory_of(status: Status) -> MemoryStatus:
    assert status.memory is not None
    return status.memory


FIRST = next_status(Status(), inputs_of(holding(412 * MIB)))


class TestNextStatus:
    def test_it_says_what_was_seen_and_what_is_planned(self) -> None:
        assert (FIRST.state, FIRST.target, FIRST.reason) == (State.LOADED, State.LOADED, Reason.DESIRED_STATE)
        assert FIRST.message == "Loaded by desiredState."
        assert (FIRST.observed_generation, FIRST.since, FIRST.spec_since) == (3, NOON, NOON)
        assert FIRST.replicas is not None
        assert FIRST.replicas.model_dump() == {"desired": 1, "ready": 1, "loaded": 1}

    def test_the_same_again_is_the_same_status(self) -> None:
        assert next_status(FIRST, inputs_of(holding(412 * MIB, now=LATER))) == FIRST

    def test_a_state_that_stays_keeps_its_time_and_another_one_has_its_own(self) -> None:
        stays = next_status(FIRST, inputs_of(holding(412 * MIB, now=LATER)))
        moved = next_status(FIRST, inputs_of(observation_of(view_of(State.UNLOADED), now=LATER), state=State.UNLOADED))
        assert (stays.since, moved.since) == (NOON, LATER)

    def test_times_are_whole_seconds(self) -> None:
        late = NOON + timedelta(microseconds=999_999)
        after = next_status(Status(), inputs_of(holding(MIB, now=late)))
        assert {after.since, memory_of(after).observed_at} == {NOON}
        assert {condition.last_transition_time for condition in after.conditions} == {whole(late)}

    def test_pods_that_answer_are_counted_and_those_that_hold_the_model(self) -> None:
        observation = observation_of(view_of(State.LOADED), view_of(State.LOADING), view_of(None))
        replicas = next_status(Status(), inputs_of(observation, desired_replicas=3)).replicas
        assert replicas is not None
        assert replicas.model_dump() == {"desired": 3, "ready": 2, "loaded": 1}

    def test_the_device_is_remembered_while_nothing_is_loaded(self) -> None:
        cuda = observation_of(view_of(report=report_of(State.LOADED, device="cuda")))
        loaded = next_status(Status(), inputs_of(cuda))
        assert loaded.device is Device.CUDA
        assert next_status(loaded, inputs_of(observation_of(), state=State.ZERO)).device is Device.CUDA

    def test_a_command_by_hand_is_noted_and_taken_out_when_it_holds_no_more(self) -> None:
        noted = next_status(FIRST, inputs_of(manual=by_hand(Mode.UNLOADED, "2026-03-02T11:00")))
        assert noted.manual is not None
        assert (noted.manual.state, noted.manual.at) == (Mode.UNLOADED, utc("2026-03-02T11:00"))
        assert next_status(noted, inputs_of(manual=None)).manual is None

    def test_the_next_transition_is_the_plans(self) -> None:
        after = next_status(Status(), inputs_of(plan=plan_of(State.LOADED, schedule=DAY)))
        assert after.next_transition is not None
        assert (after.next_transition.state, after.next_transition.time) == (State.UNLOADED, utc("2026-03-02T20:00"))
        assert after.next_transition.summary == "Unloaded Mon 20:00 UTC"


class TestReceipts:
    LOAD = LastLoad(time=NOON, seconds=2.5, trigger="Demand")
    UNLOAD = LastUnload(time=NOON, seconds=0.3, freed_resident_bytes=1, freed_gpu_bytes=0, fully_released=True)

    def test_they_are_taken_over_and_stay(self) -> None:
        unreported = Unreported(load=self.LOAD, unload=self.UNLOAD, start_seconds=2.5)
        told = next_status(FIRST, inputs_of(unreported=unreported))
        later = next_status(told, inputs_of())
        for status in (told, later):
            assert (status.last_load, status.last_unload) == (self.LOAD, self.UNLOAD)
            assert status.recent_start_seconds == (2.5,)

    def test_the_last_five_starts_are_kept_the_latest_first(self) -> None:
        status = Status()
        for number in range(1, 8):
            status = next_status(status, inputs_of(unreported=Unreported(start_seconds=float(number))))
        assert status.recent_start_seconds == (7, 6, 5, 4, 3)


class TestMemory:
    @pytest.mark.parametrize(
        ("resident", "gpu", "taken"),
        [
            pytest.param(1100, 1000, False, id="a tenth more is the same"),
            pytest.param(900, 1000, False, id="a tenth less is the same"),
            pytest.param(1101, 1000, True, id="more than a tenth more"),
            pytest.param(899, 1000, True, id="more than a tenth less"),
            pytest.param(1000, 1101, True, id="only the GPU's moved"),
            pytest.param(1000, 0, True, id="the GPU's is gone"),
        ],
    )
    def test_figures_are_taken_over_when_they_moved_by_more_than_a_tenth(
        self, resident: int, gpu: int, taken: bool
    ) -> None:
        before = next_status(Status(), inputs_of(holding(1000 * MIB, gpu=1000 * MIB)))
        after = next_status(before, inputs_of(holding(resident * MIB, gpu=gpu * MIB, now=LATER)))
        assert memory_of(after).resident_bytes == (resident if taken else 1000) * MIB
        assert memory_of(after).gpu_bytes == (gpu if taken else 1000) * MIB
        assert memory_of(after).observed_at == (LATER if taken else NOON)

    def test_from_nothing_every_figure_is_news(self) -> None:
        before = next_status(Status(), inputs_of(holding(0)))
        assert memory_of(next_status(before, inputs_of(holding(1)))).resident_bytes == 1

    def test_pods_that_were_not_asked_hold_what_they_held(self) -> None:
        assert next_status(FIRST, inputs_of(observation_of(view_of(), now=LATER))).memory == FIRST.memory

    def test_without_pods_nothing_is_held(self) -> None:
        assert next_status(FIRST, inputs_of(observation_of(), state=State.ZERO)).memory is None

    def test_the_summary_is_for_people(self) -> None:
        assert memory_of(FIRST).summary == "412Mi"


class TestLastFailure:
    CRASH = Failure("Crash", "The container exited with code 1.", 1, 3)

    def failing(self, failure: Failure, now: datetime) -> StatusInputs:
        return inputs_of(observation_of(view_of(None, failure=failure), now=now), state=State.FAILED)

    def test_a_root_cause_is_noted_with_its_code_and_time(self) -> None:
        noted = next_status(FIRST, self.failing(self.CRASH, LATER)).last_failure
        assert noted == LastFailure(
            reason="Crash", message="The container exited with code 1.", exit_code=1, time=LATER, count=3
        )

    def test_one_that_lasts_keeps_its_time_and_one_that_happens_again_has_a_new_one(self) -> None:
        noted = next_status(FIRST, self.failing(self.CRASH, NOON))
        lasting = next_status(noted, self.failing(self.CRASH, LATER)).last_failure
        again = next_status(noted, self.failing(replace(self.CRASH, count=4), LATER)).last_failure
        assert lasting == noted.last_failure
        assert again is not None
        assert (again.count, again.time) == (4, LATER)

    def test_a_pod_that_tells_of_its_last_failed_load_does_not_count_anew(self) -> None:
        told = LastFailure(reason="LoadFailed", message="out of memory", time=NOON, count=7)
        failed = Status(last_failure=told)
        shown = self.failing(Failure("LoadFailed", "out of memory"), LATER)
        assert next_status(failed, shown).last_failure == told

    def test_it_survives_the_recovery(self) -> None:
        failed = next_status(FIRST, self.failing(self.CRASH, NOON))
        assert next_status(failed, inputs_of()).last_failure == failed.last_failure

    def test_what_a_call_came_to_beats_what_the_pod_shows(self) -> None:
        told = LastFailure(reason="LoadFailed", message="out of memory", time=NOON, count=2)
        after = next_status(FIRST, replace(self.failing(self.CRASH, NOON), unreported=Unreported(failure=told)))
        assert after.last_failure == told


class TestIsDue:
    SOON = NOON + timedelta(seconds=59)
    MINUTE = NOON + timedelta(seconds=60)
    NEXT = plan_of(State.LOADED, schedule=DAY)

    @pytest.mark.parametrize(
        "change",
        [
            {"state": State.UNLOADED},
            {"target": State.ZERO},
            {"reason": Reason.SCHEDULE},
            {"observed_generation": 4},
            {"last_load": TestReceipts.LOAD},
            {"last_unload": TestReceipts.UNLOAD},
            {"last_failure": LastFailure(reason="Crash", message="", time=NOON, count=1)},
            {"conditions": ()},
            {"replicas": None},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_what_happened_is_written_at_once(self, change: dict[str, Any]) -> None:
        assert is_due(FIRST, FIRST.model_copy(update=change), written_at=NOON, now=NOON + seconds(0.1))

    @pytest.mark.parametrize(
        "change",
        [
            {"memory": None},
            {"idle_since": LATER},
            {"message": "Loaded without work since Mon 12:00 UTC."},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_what_merely_moves_is_written_once_a_minute(self, change: dict[str, Any]) -> None:
        after = FIRST.model_copy(update=change)
        assert not is_due(FIRST, after, written_at=NOON, now=self.SOON)
        assert is_due(FIRST, after, written_at=NOON, now=self.MINUTE)
        assert is_due(FIRST, after, written_at=None, now=NOON)

    def test_a_next_change_is_told_at_once_and_that_there_is_none_once_a_minute(self) -> None:
        coming = next_status(Status(), inputs_of(plan=self.NEXT)).next_transition
        after = FIRST.model_copy(update={"next_transition": coming})
        assert is_due(FIRST, after, written_at=NOON, now=self.SOON)
        assert not is_due(after, FIRST, written_at=NOON, now=self.SOON)

    @pytest.mark.parametrize("written_at", [None, NOON], ids=["after a restart", "long ago"])
    def test_nothing_is_written_when_nothing_changed(self, written_at: datetime | None) -> None:
        again = next_status(FIRST, inputs_of(holding(412 * MIB, now=LATER)))
        assert not is_due(FIRST, again, written_at=written_at, now=LATER)


class TestDocument:
    @settings(deadline=None)
    @given(
        state=st.sampled_from(State),
        views=st.lists(st.sampled_from([*State, None]), max_size=3),
        asked=st.sampled_from([{"desiredState": "Zero"}, {"schedule": DAY}, {"suspend": True}, {}]),
        unreported=st.booleans(),
    )
    def test_every_status_reads_back_as_it_was_written(
        self, state: State, views: list[State | None], asked: dict[str, Any], unreported: bool
    ) -> None:
        observation = observation_of(*(view_of(one, memory=Memory(MIB, 2, 3)) for one in views))
        told = Unreported(
            load=TestReceipts.LOAD,
            unload=TestReceipts.UNLOAD,
            failure=LastFailure(reason="Crash", message="why", exit_code=1, time=NOON, count=2),
            start_seconds=1.5,
        )
        plan = plan_of(state, **asked)
        status = next_status(
            Status(),
            inputs_of(
                observation, state=state, plan=plan, idle_since=NOON, unreported=told if unreported else Unreported()
            ),
        )
        assert Status.model_validate(as_json(status)) == status

    def test_what_is_not_known_is_left_out(self) -> None:
        document = as_json(Status(state=State.ZERO))
        assert None not in document.values()
        assert {"device", "memory", "lastLoad", "idleSince"}.isdisjoint(document)

    def test_its_names_are_those_of_the_resource(self) -> None:
        document = as_json(FIRST)
        assert {"observedGeneration", "specSince", "recentStartSeconds", "conditions"} <= set(document)


class TestTimesOfConditions:
    def by_type(self, status: Status) -> dict[str, Any]:
        return {condition.type: condition for condition in status.conditions}

    def test_one_whose_status_stays_keeps_its_time_though_its_words_change(self) -> None:
        unloaded = inputs_of(observation_of(view_of(State.UNLOADED), now=LATER), state=State.UNLOADED)
        before, after = self.by_type(FIRST), self.by_type(next_status(FIRST, unloaded))
        assert before["Ready"].reason != after["Ready"].reason
        assert after["Ready"].last_transition_time == NOON
        assert after["ModelLoaded"].last_transition_time == LATER

    def test_they_name_the_generation_that_they_were_judged_by(self) -> None:
        after = next_status(FIRST, inputs_of(holding(412 * MIB), generation=7))
        assert {condition.observed_generation for condition in after.conditions} == {7}

    def test_an_unreadable_spec_has_all_of_them_too(self) -> None:
        found = list(as_conditions(FIRST, unreadable("No."), generation=1, now=LATER))
        assert {condition.type for condition in found} == set(ConditionType)
        assert {condition.type: condition.status for condition in found}["Ready"] == "False"
