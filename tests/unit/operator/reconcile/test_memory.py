"""What the operator remembers of a model between two reconciliations."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from testing import pod_answers
from testing.operator_harness import NOON, observation_of, report_of, seconds
from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_operator.reconcile.back_off import BackOff
from whisper_operator.reconcile.calls_in_progress import Outcome
from whisper_operator.reconcile.memory import ReconcileMemory
from whisper_operator.reconcile.planner_input import planner_input
from whisper_operator.reconcile.receipts import AwaitedStart, Receipts
from whisper_operator.reconcile.status import Unreported
from whispermodel.states import State
from whispermodel.status import LastFailure, LastLoad, Status
from whispermodel.wire import LoadAnswer, UnloadAnswer

MIB = 2**20
UID = "uid-base-1"


def loaded(**fields: Any) -> LoadAnswer:
    return LoadAnswer.model_validate(pod_answers.loaded(**fields))


def unloaded(**fields: Any) -> UnloadAnswer:
    return UnloadAnswer.model_validate(pod_answers.unloaded(**fields))


LOADED = loaded(device="cuda", load_seconds=2.5, phases={"read": 1.0, "move": 1.5})
UNLOADED = unloaded(
    device_was="cuda",
    memory_freed={"ram_mb": 300, "vram_mb": 1000},
    fully_released=True,
    unload_seconds=0.4,
)
REFUSED = PodRefused("The model does not fit.", code="does-not-fit", status=507)
UNREACHABLE = PodUnreachable("POST /model/load: timed out after 3 s")


def after_calls(
    *results: LoadAnswer | UnloadAnswer | PodRefused | PodUnreachable, memory: ReconcileMemory | None = None
) -> ReconcileMemory:
    """Return a memory that recorded these outcomes, one second apart."""
    kept = memory or ReconcileMemory()
    for number, result in enumerate(results):
        transition = State.UNLOADING if isinstance(result, UnloadAnswer) else State.LOADING
        kept.record_outcomes([Outcome("uid", transition, result)], Status(), NOON + seconds(number))
    return kept


class TestLoads:
    def test_load_is_recorded_with_phases_and_trigger(self) -> None:
        memory = ReconcileMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        assert after_calls(LOADED, memory=memory).receipts.unreported.load == LastLoad(
            time=NOON, seconds=2.5, phases={"read": 1.0, "move": 1.5}, trigger="Schedule"
        )

    @pytest.mark.parametrize(
        ("waited", "start_seconds"),
        [
            pytest.param(8.0, 8.0, id="from the first wish on, the start of the pod included"),
            pytest.param(1.0, 2.5, id="a load that was joined counts whole"),
        ],
    )
    def test_start_seconds(self, waited: float, start_seconds: float) -> None:
        memory = after_calls(
            LOADED,
            memory=ReconcileMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(waited), "Demand"))),
        )
        assert memory.receipts.unreported.start_seconds == start_seconds
        assert memory.receipts.awaited_start is None

    @pytest.mark.parametrize(
        ("ended", "idle_from"),
        [
            pytest.param(-9.0, -9.0, id="work of before the wait: its end"),
            pytest.param(-8.0, 0.0, id="while the pod started: the end of the load"),
            pytest.param(-0.5, 0.0, id="during the load: its end"),
            pytest.param(0.0, 0.0, id="after it"),
            pytest.param(None, None, id="no work at all"),
        ],
    )
    def test_idle_time_begins_after_the_load(self, ended: float | None, idle_from: float | None) -> None:
        memory = after_calls(
            LOADED, memory=ReconcileMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Demand")))
        )
        expected = None if idle_from is None else NOON + seconds(idle_from)
        status = Status(idle_since=None if ended is None else NOON + seconds(ended))
        observation = observation_of(last_start=memory.receipts.last_start)
        assert planner_input(observation, status).idle_since == expected

    def test_unawaited_load_counts_its_own_duration(self) -> None:
        assert after_calls(LOADED).receipts.unreported.start_seconds == 2.5

    def test_call_to_a_loaded_model_ends_the_wait_without_receipt(self) -> None:
        memory = after_calls(
            loaded(device="cuda"), memory=ReconcileMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON, "Demand")))
        )
        assert (memory.receipts.unreported, memory.receipts.awaited_start) == (Unreported(), None)

    def test_start_is_awaited_since_the_first_request(self) -> None:
        memory = ReconcileMemory()
        memory.receipts.await_start(NOON, "Schedule")
        memory.receipts.await_start(NOON + seconds(5), "Demand")
        assert memory.receipts.awaited_start == AwaitedStart(NOON, "Schedule")


class TestUnloads:
    def test_unload_is_recorded_with_freed_memory(self) -> None:
        unload = after_calls(UNLOADED).receipts.unreported.unload
        assert unload is not None
        assert (unload.freed_resident_bytes, unload.freed_gpu_bytes) == (300 * MIB, 1000 * MIB)
        assert (unload.time, unload.seconds, unload.fully_released) == (NOON, 0.4, True)

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(unloaded(pending=True), id="one that waits for running work"),
            pytest.param(unloaded(), id="one of a model that was not loaded"),
        ],
    )
    def test_unload_that_freed_nothing_is_not_recorded(self, answer: UnloadAnswer) -> None:
        assert after_calls(answer).receipts.unreported == Unreported()

    def test_missing_measurement_is_not_a_full_release(self) -> None:
        unload = after_calls(unloaded(device_was="cpu")).receipts.unreported.unload
        assert unload is not None
        assert not unload.fully_released


RECEIPT = {"device": "cuda", "load_seconds": 2.5, "phases": {"read": 1.0}, "trigger": "demand"}
RELEASE = {
    "device_was": "cuda",
    "memory_freed": {"ram_mb": 300, "vram_mb": 1000},
    "fully_released": True,
    "unload_seconds": 0.4,
}


def after_reports(
    *reports: dict[str, Any], memory: ReconcileMemory | None = None, status: Status | None = None
) -> Unreported:
    """Return what is unreported after pods reported their last load and unload."""
    kept = memory or ReconcileMemory()
    kept.receipts.record_reports([report_of(**report) for report in reports], status or Status(), NOON)
    return kept.receipts.unreported


def load_at(time: datetime) -> LastLoad:
    return LastLoad(time=time, seconds=9.0, trigger="Schedule")


class TestReceiptsOfPods:
    """Loads and unloads that the operator did not request."""

    def test_load_by_a_request_is_recorded_with_its_time(self) -> None:
        unreported = after_reports({"last_load": {**RECEIPT, "seconds_ago": 20.0}})
        assert unreported.load == LastLoad(time=NOON - seconds(20), seconds=2.5, phases={"read": 1.0}, trigger="Demand")
        assert unreported.start_seconds == 2.5

    def test_manual_unload_is_recorded_with_freed_memory(self) -> None:
        unload = after_reports({"last_unload": {**RELEASE, "seconds_ago": 20.0}}).unload
        assert unload is not None
        assert (unload.time, unload.seconds, unload.fully_released) == (NOON - seconds(20), 0.4, True)
        assert (unload.freed_resident_bytes, unload.freed_gpu_bytes) == (300 * MIB, 1000 * MIB)

    @pytest.mark.parametrize(
        ("ago", "known", "is_new"),
        [
            pytest.param(0.0, None, True, id="the first that is known"),
            pytest.param(0.0, 10.0, False, id="the known one, in a slow response"),
            pytest.param(0.0, 11.0, True, id="a later one"),
            pytest.param(7200.0, 60.0, False, id="an earlier one, of another pod"),
        ],
    )
    def test_receipt_is_recorded_once(self, ago: float, known: float | None, is_new: bool) -> None:
        known_load = load_at(NOON - seconds(known)) if known is not None else None
        report = {"last_load": {**RECEIPT, "seconds_ago": ago}}
        assert (after_reports(report, status=Status(last_load=known_load)).load is not None) is is_new
        memory = ReconcileMemory(receipts=Receipts(Unreported(load=known_load)))
        assert (after_reports(report, memory=memory).load != known_load) is is_new

    def test_response_of_our_own_call_wins_over_the_pods_receipt(self) -> None:
        memory = after_calls(
            LOADED, memory=ReconcileMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        )
        before = memory.receipts.unreported
        assert after_reports({"last_load": {**RECEIPT, "seconds_ago": 0.1}}, memory=memory) == before

    def test_latest_receipt_of_several_pods_wins(self) -> None:
        ages = (300.0, 20.0, 100.0)
        unreported = after_reports(*({"last_load": {**RECEIPT, "seconds_ago": age}} for age in ages))
        assert unreported.load is not None
        assert unreported.load.time == NOON - seconds(20)

    def test_request_faster_than_our_call_ends_the_wait(self) -> None:
        memory = ReconcileMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        unreported = after_reports({"last_load": {**RECEIPT, "seconds_ago": 1.0}}, memory=memory)
        assert unreported.load is not None
        assert (unreported.load.trigger, unreported.start_seconds, memory.receipts.awaited_start) == (
            "Schedule",
            7.0,
            None,
        )

    def test_earlier_load_does_not_end_the_wait(self) -> None:
        memory = ReconcileMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        unreported = after_reports({"last_load": {**RECEIPT, "seconds_ago": 60.0}}, memory=memory)
        assert unreported.load is not None
        assert (unreported.load.trigger, unreported.start_seconds) == ("Demand", 2.5)
        assert memory.receipts.awaited_start is not None

    @pytest.mark.parametrize(
        "report",
        [
            pytest.param({}, id="an older server"),
            pytest.param({"last_load": None, "last_unload": None}, id="none yet"),
        ],
    )
    def test_report_without_receipts_records_nothing(self, report: dict[str, Any]) -> None:
        assert after_reports(report) == Unreported()


class TestFailures:
    @pytest.mark.parametrize(
        ("result", "reason"),
        [(REFUSED, "LoadFailed"), (UNREACHABLE, "Unreachable")],
        ids=["the server refused", "nobody answered"],
    )
    def test_failure_is_recorded_with_its_message(self, result: PodRefused | PodUnreachable, reason: str) -> None:
        assert after_calls(result).receipts.unreported.failure == LastFailure(
            reason=reason, message=str(result), time=NOON, count=1
        )

    def test_back_off_doubles_up_to_five_minutes(self) -> None:
        memory, waits = ReconcileMemory(), list[timedelta]()
        for _ in range(10):
            after_calls(REFUSED, memory=memory)
            assert memory.back_off.retry_at is not None
            waits.append(memory.back_off.retry_at - NOON)
        assert [wait.total_seconds() for wait in waits] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    def test_back_off_does_not_overflow(self) -> None:
        memory = after_calls(REFUSED, memory=ReconcileMemory(BackOff(State.LOADING, failures=100_000)))
        assert memory.back_off.retry_at == NOON + timedelta(minutes=5)

    @pytest.mark.parametrize("success", [LOADED, UNLOADED], ids=["a load", "an unload"])
    def test_success_ends_the_back_off(self, success: LoadAnswer | UnloadAnswer) -> None:
        memory = after_calls(REFUSED, REFUSED, success)
        assert (memory.back_off.failures, memory.back_off.retry_at) == (0, None)
        again = after_calls(REFUSED, memory=memory)
        assert again.back_off.retry_at == NOON + seconds(2)

    def test_failed_unload_blocks_unloads_only(self) -> None:
        memory = ReconcileMemory()
        memory.record_outcomes([Outcome("uid", State.UNLOADING, UNREACHABLE)], Status(), NOON)
        assert [memory.back_off.blocked(NOON + seconds(after)) for after in (0.0, 1.9, 2.0)] == [
            State.UNLOADING
        ] * 2 + [None]

    @pytest.mark.parametrize(
        ("generation", "pods", "ends"),
        [
            pytest.param(1, ("a",), False, id="not while all is as it was"),
            pytest.param(2, ("a",), True, id="with another spec"),
            pytest.param(1, ("b",), True, id="with another pod"),
        ],
    )
    def test_back_off_ends_when_spec_or_pods_change(self, generation: int, pods: tuple[str, ...], ends: bool) -> None:
        memory = ReconcileMemory()
        memory.back_off.reset_if_changed(1, ("a",))
        after_calls(REFUSED, REFUSED, memory=memory)
        memory.back_off.reset_if_changed(generation, pods)
        assert (memory.back_off.blocked(NOON + seconds(1)) is None) is ends

    def test_failures_in_a_row_are_counted_by_reason(self) -> None:
        memory = after_calls(REFUSED, REFUSED, REFUSED)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.count == 3
        memory = after_calls(UNREACHABLE, memory=memory)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.count == 1

    def test_count_continues_after_a_status_write(self) -> None:
        memory = after_calls(REFUSED)
        written = Status(last_failure=memory.receipts.unreported.failure)
        memory.receipts.unreported = Unreported()
        memory.record_outcomes([Outcome("uid", State.LOADING, REFUSED)], written, NOON + seconds(9))
        assert memory.receipts.unreported.failure is not None
        assert (memory.receipts.unreported.failure.count, memory.receipts.unreported.failure.time) == (
            2,
            NOON + seconds(9),
        )

    def test_refused_unload_is_not_a_failed_load(self) -> None:
        memory = ReconcileMemory()
        memory.record_outcomes([Outcome("uid", State.UNLOADING, REFUSED)], Status(), NOON)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.reason == "UnloadRefused"

    def test_superseded_load_is_not_a_failure(self) -> None:
        given_up = PodRefused("The load was given up.", code="superseded", status=409)
        memory = after_calls(given_up)
        assert (memory.receipts.unreported, memory.back_off.retry_at) == (Unreported(), None)

    def test_count_restarts_after_a_recovery(self) -> None:
        old = Status(last_failure=LastFailure(reason="LoadFailed", message="", time=NOON, count=7))
        memory = ReconcileMemory()
        memory.record_outcomes([Outcome("uid", State.LOADING, REFUSED)], old, NOON)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.count == 1
