"""The next status of a model: what is kept, what moves, and what is worth a write."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.operator_harness import NOON, observation_of, plan_of, report_of, seconds, view_of
from testing.planner_cases import DAY, manual_command, utc
from whisper_cluster.pods import Memory
from whisper_operator.reconcile.conditions import ConditionInputs, conditions, invalid_spec
from whisper_operator.reconcile.failures import Failure
from whisper_operator.reconcile.observation import Observation
from whisper_operator.reconcile.status import (
    StatusInputs,
    Unreported,
    next_status,
)
from whispermodel.catalog import Device
from whispermodel.conditions import ConditionType, as_conditions
from whispermodel.planning.modes import Reason
from whispermodel.states import Mode, ServerState, State
from whispermodel.status import LastFailure, LastLoad, LastUnload, Status
from whispermodel.status import Memory as MemoryStatus
from whispermodel.status_writes import as_json, is_write_due, whole

MIB = 2**20
LATER = NOON + timedelta(hours=1)
MINUTE = timedelta(minutes=1)


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
    def test_status_contains_observation_and_plan(self) -> None:
        assert (FIRST.state, FIRST.target, FIRST.reason) == (State.LOADED, State.LOADED, Reason.DESIRED_STATE)
        assert FIRST.message == "Loaded by desiredState."
        assert (FIRST.observed_generation, FIRST.since, FIRST.spec_since) == (3, NOON, NOON)
        assert FIRST.replicas is not None
        assert FIRST.replicas.model_dump() == {"desired": 1, "ready": 1, "loaded": 1}

    def test_same_inputs_give_the_same_status(self) -> None:
        assert next_status(FIRST, inputs_of(holding(412 * MIB, now=LATER))) == FIRST

    def test_since_changes_with_the_state_only(self) -> None:
        stays = next_status(FIRST, inputs_of(holding(412 * MIB, now=LATER)))
        moved = next_status(FIRST, inputs_of(observation_of(view_of(State.UNLOADED), now=LATER), state=State.UNLOADED))
        assert (stays.since, moved.since) == (NOON, LATER)

    def test_times_are_whole_seconds(self) -> None:
        late = NOON + timedelta(microseconds=999_999)
        after = next_status(Status(), inputs_of(holding(MIB, now=late)))
        assert {after.since, memory_of(after).observed_at} == {NOON}
        assert {condition.last_transition_time for condition in after.conditions} == {whole(late)}

    def test_ready_and_loaded_pods_are_counted(self) -> None:
        observation = observation_of(view_of(State.LOADED), view_of(State.LOADING), view_of(None))
        replicas = next_status(Status(), inputs_of(observation, desired_replicas=3)).replicas
        assert replicas is not None
        assert replicas.model_dump() == {"desired": 3, "ready": 2, "loaded": 1}

    def test_device_is_kept_while_nothing_is_loaded(self) -> None:
        cuda = observation_of(view_of(report=report_of(State.LOADED, device="cuda")))
        loaded = next_status(Status(), inputs_of(cuda))
        assert loaded.device is Device.CUDA
        assert next_status(loaded, inputs_of(observation_of(), state=State.ZERO)).device is Device.CUDA

    def test_manual_command_is_removed_when_it_ends(self) -> None:
        noted = next_status(FIRST, inputs_of(manual=manual_command(Mode.UNLOADED, "2026-03-02T11:00")))
        assert noted.manual is not None
        assert (noted.manual.state, noted.manual.at) == (Mode.UNLOADED, utc("2026-03-02T11:00"))
        assert next_status(noted, inputs_of(manual=None)).manual is None

    def test_next_transition_is_the_plans(self) -> None:
        after = next_status(Status(), inputs_of(plan=plan_of(State.LOADED, schedule=DAY)))
        assert after.next_transition is not None
        assert (after.next_transition.state, after.next_transition.time) == (State.UNLOADED, utc("2026-03-02T20:00"))
        assert after.next_transition.summary == "Unloaded Mon 20:00 UTC"


class TestReceipts:
    LOAD = LastLoad(time=NOON, seconds=2.5, trigger="Demand")
    UNLOAD = LastUnload(time=NOON, seconds=0.3, freed_resident_bytes=1, freed_gpu_bytes=0, fully_released=True)

    def test_receipts_are_kept(self) -> None:
        unreported = Unreported(load=self.LOAD, unload=self.UNLOAD, start_seconds=2.5)
        written = next_status(FIRST, inputs_of(unreported=unreported))
        later = next_status(written, inputs_of())
        for status in (written, later):
            assert (status.last_load, status.last_unload) == (self.LOAD, self.UNLOAD)
            assert status.recent_start_seconds == (2.5,)

    def test_last_five_starts_are_kept_latest_first(self) -> None:
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
    def test_memory_changes_by_more_than_a_tenth_only(self, resident: int, gpu: int, taken: bool) -> None:
        before = next_status(Status(), inputs_of(holding(1000 * MIB, gpu=1000 * MIB)))
        after = next_status(before, inputs_of(holding(resident * MIB, gpu=gpu * MIB, now=LATER)))
        assert memory_of(after).resident_bytes == (resident if taken else 1000) * MIB
        assert memory_of(after).gpu_bytes == (gpu if taken else 1000) * MIB
        assert memory_of(after).observed_at == (LATER if taken else NOON)

    def test_any_change_from_zero_counts(self) -> None:
        before = next_status(Status(), inputs_of(holding(0)))
        assert memory_of(next_status(before, inputs_of(holding(1)))).resident_bytes == 1

    def test_memory_is_kept_when_pods_were_not_asked(self) -> None:
        assert next_status(FIRST, inputs_of(observation_of(view_of(), now=LATER))).memory == FIRST.memory

    def test_no_pods_no_memory(self) -> None:
        assert next_status(FIRST, inputs_of(observation_of(), state=State.ZERO)).memory is None

    def test_summary_is_readable(self) -> None:
        assert memory_of(FIRST).summary == "412Mi"


class TestLastFailure:
    CRASH = Failure("Crash", "The container exited with code 1.", 1, 3)

    def failing(self, failure: Failure, now: datetime) -> StatusInputs:
        return inputs_of(observation_of(view_of(None, failure=failure), now=now), state=State.FAILED)

    def test_root_cause_has_exit_code_and_time(self) -> None:
        noted = next_status(FIRST, self.failing(self.CRASH, LATER)).last_failure
        assert noted == LastFailure(
            reason="Crash", message="The container exited with code 1.", exit_code=1, time=LATER, count=3
        )

    def test_repeated_failure_has_a_new_time(self) -> None:
        noted = next_status(FIRST, self.failing(self.CRASH, NOON))
        lasting = next_status(noted, self.failing(self.CRASH, LATER)).last_failure
        again = next_status(noted, self.failing(replace(self.CRASH, count=4), LATER)).last_failure
        assert lasting == noted.last_failure
        assert again is not None
        assert (again.count, again.time) == (4, LATER)

    def test_failure_reported_by_the_pod_keeps_the_count(self) -> None:
        failure = LastFailure(reason="LoadFailed", message="out of memory", time=NOON, count=7)
        failed = Status(last_failure=failure)
        shown = self.failing(Failure("LoadFailed", "out of memory"), LATER)
        assert next_status(failed, shown).last_failure == failure

    def test_last_failure_survives_the_recovery(self) -> None:
        failed = next_status(FIRST, self.failing(self.CRASH, NOON))
        assert next_status(failed, inputs_of()).last_failure == failed.last_failure

    def test_failed_call_wins_over_the_pods_failure(self) -> None:
        failure = LastFailure(reason="LoadFailed", message="out of memory", time=NOON, count=2)
        after = next_status(FIRST, replace(self.failing(self.CRASH, NOON), unreported=Unreported(failure=failure)))
        assert after.last_failure == failure


class TestWrites:
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
    def test_changes_are_written_at_once(self, change: dict[str, Any]) -> None:
        after = FIRST.model_copy(update=change)
        assert is_write_due(FIRST, after, written_at=NOON, now=NOON + seconds(0.1), figures_every=MINUTE)

    @pytest.mark.parametrize(
        "change",
        [
            {"memory": None},
            {"idle_since": LATER},
            {"message": "Loaded: idle since Mon 12:00 UTC."},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_moving_figures_are_written_once_a_minute(self, change: dict[str, Any]) -> None:
        after = FIRST.model_copy(update=change)
        assert not is_write_due(FIRST, after, written_at=NOON, now=self.SOON, figures_every=MINUTE)
        assert is_write_due(FIRST, after, written_at=NOON, now=self.MINUTE, figures_every=MINUTE)
        assert is_write_due(FIRST, after, written_at=None, now=NOON, figures_every=MINUTE)

    def test_new_next_transition_is_written_at_once(self) -> None:
        coming = next_status(Status(), inputs_of(plan=self.NEXT)).next_transition
        after = FIRST.model_copy(update={"next_transition": coming})
        assert is_write_due(FIRST, after, written_at=NOON, now=self.SOON, figures_every=MINUTE)
        assert not is_write_due(after, FIRST, written_at=NOON, now=self.SOON, figures_every=MINUTE)

    @pytest.mark.parametrize("written_at", [None, NOON], ids=["after a restart", "long ago"])
    def test_unchanged_status_is_not_written(self, written_at: datetime | None) -> None:
        again = next_status(FIRST, inputs_of(holding(412 * MIB, now=LATER)))
        assert not is_write_due(FIRST, again, written_at=written_at, now=LATER, figures_every=MINUTE)


class TestDocument:
    @settings(deadline=None)
    @given(
        state=st.sampled_from(State),
        views=st.lists(st.sampled_from([*get_args(ServerState), None]), max_size=3),
        asked=st.sampled_from([{"desiredState": "Zero"}, {"schedule": DAY}, {"suspend": True}, {}]),
        unreported=st.booleans(),
    )
    def test_status_survives_a_round_trip(
        self, state: State, views: list[ServerState | None], asked: dict[str, Any], unreported: bool
    ) -> None:
        observation = observation_of(*(view_of(one, memory=Memory(MIB, 2, 3)) for one in views))
        everything = Unreported(
            load=TestReceipts.LOAD,
            unload=TestReceipts.UNLOAD,
            failure=LastFailure(reason="Crash", message="why", exit_code=1, time=NOON, count=2),
            start_seconds=1.5,
        )
        plan = plan_of(state, **asked)
        status = next_status(
            Status(),
            inputs_of(
                observation,
                state=state,
                plan=plan,
                idle_since=NOON,
                unreported=everything if unreported else Unreported(),
            ),
        )
        assert Status.model_validate(as_json(status)) == status

    def test_unknown_fields_are_left_out(self) -> None:
        document = as_json(Status(state=State.ZERO))
        assert None not in document.values()
        assert {"device", "memory", "lastLoad", "idleSince"}.isdisjoint(document)

    def test_field_names_are_those_of_the_resource(self) -> None:
        document = as_json(FIRST)
        assert {"observedGeneration", "specSince", "recentStartSeconds", "conditions"} <= set(document)


class TestTimesOfConditions:
    def by_type(self, status: Status) -> dict[str, Any]:
        return {condition.type: condition for condition in status.conditions}

    def test_condition_time_changes_with_its_status_only(self) -> None:
        unloaded = inputs_of(observation_of(view_of(State.UNLOADED), now=LATER), state=State.UNLOADED)
        before, after = self.by_type(FIRST), self.by_type(next_status(FIRST, unloaded))
        assert before["Ready"].reason != after["Ready"].reason
        assert after["Ready"].last_transition_time == NOON
        assert after["ModelLoaded"].last_transition_time == LATER

    def test_conditions_have_the_observed_generation(self) -> None:
        after = next_status(FIRST, inputs_of(holding(412 * MIB), generation=7))
        assert {condition.observed_generation for condition in after.conditions} == {7}

    def test_invalid_spec_has_all_conditions(self) -> None:
        found = list(as_conditions(FIRST, invalid_spec("No."), generation=1, now=LATER))
        assert {condition.type for condition in found} == set(ConditionType)
        assert {condition.type: condition.status for condition in found}["Ready"] == "False"
