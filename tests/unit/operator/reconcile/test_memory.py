"""What the operator remembers of a model between two looks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from testing.operator_harness import NOON, observation_of, report_of, seconds, view_of
from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_cluster.pods import Loaded, Unloaded
from whisper_operator.reconcile.memory import BackOff, ModelMemory, Sightings
from whisper_operator.reconcile.planner_input import planner_input
from whisper_operator.reconcile.pod_calls import Outcome
from whisper_operator.reconcile.receipts import AwaitedStart, Receipts
from whisper_operator.reconcile.status import Unreported
from whispermodel.spec import State
from whispermodel.status import LastFailure, LastLoad, Status

MIB = 2**20
UID = "uid-base-1"
LOADED = Loaded(device="cuda", load_seconds=2.5, phases={"read": 1.0, "move": 1.5})
UNLOADED = Unloaded(
    device_was="cuda",
    memory_freed=Unloaded.Freed(ram_mb=300, vram_mb=1000),
    fully_released=True,
    unload_seconds=0.4,
)
REFUSED = PodRefused("The model does not fit.", code="does-not-fit", status=507)
UNREACHABLE = PodUnreachable("POST /model/load: timed out after 3 s")


def told(*results: Loaded | Unloaded | PodRefused | PodUnreachable, memory: ModelMemory | None = None) -> ModelMemory:
    """Return a memory that heard of these outcomes, a second after one another."""
    kept = memory or ModelMemory()
    for number, result in enumerate(results):
        transition = State.UNLOADING if isinstance(result, Unloaded) else State.LOADING
        kept.record_outcomes([Outcome("uid", transition, result)], Status(), NOON + seconds(number))
    return kept


class TestLoads:
    def test_a_load_is_news_with_its_phases_and_what_asked_for_it(self) -> None:
        memory = ModelMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        assert told(LOADED, memory=memory).receipts.unreported.load == LastLoad(
            time=NOON, seconds=2.5, phases={"read": 1.0, "move": 1.5}, trigger="Schedule"
        )

    @pytest.mark.parametrize(
        ("waited", "start_seconds"),
        [
            pytest.param(8.0, 8.0, id="from the first wish on, the start of the pod included"),
            pytest.param(1.0, 2.5, id="a load that was joined counts whole"),
        ],
    )
    def test_a_start_took(self, waited: float, start_seconds: float) -> None:
        memory = told(
            LOADED, memory=ModelMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(waited), "Demand")))
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
    def test_a_model_is_not_idle_while_it_loads(self, ended: float | None, idle_from: float | None) -> None:
        memory = told(
            LOADED, memory=ModelMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Demand")))
        )
        expected = None if idle_from is None else NOON + seconds(idle_from)
        status = Status(idle_since=None if ended is None else NOON + seconds(ended))
        observation = observation_of(last_start=memory.receipts.last_start)
        assert planner_input(observation, status).idle_since == expected

    def test_a_load_that_nobody_asked_us_for_counts_its_own_time(self) -> None:
        assert told(LOADED).receipts.unreported.start_seconds == 2.5

    def test_a_model_that_was_loaded_already_is_no_news_but_ends_the_waiting(self) -> None:
        memory = told(
            Loaded(device="cuda"), memory=ModelMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON, "Demand")))
        )
        assert (memory.receipts.unreported, memory.receipts.awaited_start) == (Unreported(), None)

    def test_the_first_wish_counts_and_not_the_last(self) -> None:
        memory = ModelMemory()
        memory.receipts.await_start(NOON, "Schedule")
        memory.receipts.await_start(NOON + seconds(5), "Demand")
        assert memory.receipts.awaited_start == AwaitedStart(NOON, "Schedule")


class TestUnloads:
    def test_an_unload_is_news_with_what_it_freed(self) -> None:
        unload = told(UNLOADED).receipts.unreported.unload
        assert unload is not None
        assert (unload.freed_resident_bytes, unload.freed_gpu_bytes) == (300 * MIB, 1000 * MIB)
        assert (unload.time, unload.seconds, unload.fully_released) == (NOON, 0.4, True)

    @pytest.mark.parametrize(
        "unloaded",
        [
            pytest.param(Unloaded(pending=True), id="one that waits for running work"),
            pytest.param(Unloaded(), id="one of a model that was not loaded"),
        ],
    )
    def test_one_that_freed_nothing_is_no_news(self, unloaded: Unloaded) -> None:
        assert told(unloaded).receipts.unreported == Unreported()

    def test_a_measurement_that_is_missing_is_not_a_full_release(self) -> None:
        unload = told(Unloaded(device_was="cpu")).receipts.unreported.unload
        assert unload is not None
        assert not unload.fully_released


RECEIPT = {"device": "cuda", "load_seconds": 2.5, "phases": {"read": 1.0}, "trigger": "demand"}
RELEASE = {"device_was": "cuda", "memory_freed": {"ram_mb": 300, "vram_mb": 1000}, "fully_released": True}


def seen(*reports: dict[str, Any], memory: ModelMemory | None = None, status: Status | None = None) -> Unreported:
    """Return the unreported after pods told of their last load and unload."""
    kept = memory or ModelMemory()
    kept.receipts.record_reports([report_of(**report) for report in reports], status or Status(), NOON)
    return kept.receipts.unreported


def load_at(time: datetime) -> LastLoad:
    return LastLoad(time=time, seconds=9.0, trigger="Schedule")


class TestReceiptsOfThePods:
    """What a pod tells of loads and unloads that came without a call of ours."""

    def test_a_load_by_a_request_is_news_of_when_it_was(self) -> None:
        unreported = seen({"last_load": {**RECEIPT, "seconds_ago": 20.0}})
        assert unreported.load == LastLoad(time=NOON - seconds(20), seconds=2.5, phases={"read": 1.0}, trigger="Demand")
        assert unreported.start_seconds == 2.5

    def test_an_unload_by_hand_is_news_with_what_it_freed(self) -> None:
        unload = seen({"last_unload": {**RELEASE, "unload_seconds": 0.4, "seconds_ago": 20.0}}).unload
        assert unload is not None
        assert (unload.time, unload.seconds, unload.fully_released) == (NOON - seconds(20), 0.4, True)
        assert (unload.freed_resident_bytes, unload.freed_gpu_bytes) == (300 * MIB, 1000 * MIB)

    @pytest.mark.parametrize(
        ("ago", "known", "is_news"),
        [
            pytest.param(0.0, None, True, id="the first that is known"),
            pytest.param(0.0, 10.0, False, id="the known one, told by a slow answer"),
            pytest.param(0.0, 11.0, True, id="a later one"),
            pytest.param(7200.0, 60.0, False, id="an earlier one, of another pod"),
        ],
    )
    def test_each_is_told_once(self, ago: float, known: float | None, is_news: bool) -> None:
        noted = load_at(NOON - seconds(known)) if known is not None else None
        report = {"last_load": {**RECEIPT, "seconds_ago": ago}}
        assert (seen(report, status=Status(last_load=noted)).load is not None) is is_news
        memory = ModelMemory(receipts=Receipts(Unreported(load=noted)))
        assert (seen(report, memory=memory).load != noted) is is_news

    def test_of_our_own_call_the_answer_counts_and_not_the_pods_tale_of_it(self) -> None:
        memory = told(
            LOADED, memory=ModelMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        )
        before = memory.receipts.unreported
        assert seen({"last_load": {**RECEIPT, "seconds_ago": 0.1}}, memory=memory) == before

    def test_of_several_pods_the_latest_counts(self) -> None:
        ages = (300.0, 20.0, 100.0)
        unreported = seen(*({"last_load": {**RECEIPT, "seconds_ago": age}} for age in ages))
        assert unreported.load is not None
        assert unreported.load.time == NOON - seconds(20)

    def test_a_request_that_was_faster_than_our_call_ends_the_waiting(self) -> None:
        memory = ModelMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        unreported = seen({"last_load": {**RECEIPT, "seconds_ago": 1.0}}, memory=memory)
        assert unreported.load is not None
        assert (unreported.load.trigger, unreported.start_seconds, memory.receipts.awaited_start) == (
            "Schedule",
            7.0,
            None,
        )

    def test_a_load_of_before_the_waiting_does_not_end_it(self) -> None:
        memory = ModelMemory(receipts=Receipts(awaited_start=AwaitedStart(NOON - seconds(8), "Schedule")))
        unreported = seen({"last_load": {**RECEIPT, "seconds_ago": 60.0}}, memory=memory)
        assert unreported.load is not None
        assert (unreported.load.trigger, unreported.start_seconds) == ("Demand", 2.5)
        assert memory.receipts.awaited_start is not None

    @pytest.mark.parametrize(
        "report",
        [
            pytest.param({}, id="a server that does not tell"),
            pytest.param({"last_load": None, "last_unload": None}, id="none yet"),
            pytest.param({"last_unload": {"device_was": None, "seconds_ago": 1.0}}, id="the end of a zygote alone"),
        ],
    )
    def test_nothing_is_no_news(self, report: dict[str, Any]) -> None:
        assert seen(report) == Unreported()


class TestFailures:
    @pytest.mark.parametrize(
        ("result", "reason"),
        [(REFUSED, "LoadFailed"), (UNREACHABLE, "Unreachable")],
        ids=["the server refused", "nobody answered"],
    )
    def test_a_failure_is_news_in_its_own_words(self, result: PodRefused | PodUnreachable, reason: str) -> None:
        assert told(result).receipts.unreported.failure == LastFailure(
            reason=reason, message=str(result), time=NOON, count=1
        )

    def test_the_back_off_doubles_up_to_five_minutes(self) -> None:
        memory, waits = ModelMemory(), list[timedelta]()
        for _ in range(10):
            told(REFUSED, memory=memory)
            assert memory.back_off.retry_at is not None
            waits.append(memory.back_off.retry_at - NOON)
        assert [wait.total_seconds() for wait in waits] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    def test_it_does_not_overflow(self) -> None:
        memory = told(REFUSED, memory=ModelMemory(BackOff(State.LOADING, failures=100_000)))
        assert memory.back_off.retry_at == NOON + timedelta(minutes=5)

    @pytest.mark.parametrize("success", [LOADED, UNLOADED], ids=["a load", "an unload"])
    def test_a_success_ends_the_back_off(self, success: Loaded | Unloaded) -> None:
        memory = told(REFUSED, REFUSED, success)
        assert (memory.back_off.failures, memory.back_off.retry_at) == (0, None)
        again = told(REFUSED, memory=memory)
        assert again.back_off.retry_at == NOON + seconds(2)

    def test_an_unload_that_failed_holds_back_unloads_and_not_the_load_that_somebody_waits_for(self) -> None:
        memory = ModelMemory()
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
    def test_the_back_off_ends_with_what_may_have_caused_it(
        self, generation: int, pods: tuple[str, ...], ends: bool
    ) -> None:
        memory = ModelMemory()
        memory.back_off.reset_if_changed(1, ("a",))
        told(REFUSED, REFUSED, memory=memory)
        memory.back_off.reset_if_changed(generation, pods)
        assert (memory.back_off.blocked(NOON + seconds(1)) is None) is ends

    def test_failures_in_a_row_are_counted_and_others_begin_anew(self) -> None:
        memory = told(REFUSED, REFUSED, REFUSED)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.count == 3
        memory = told(UNREACHABLE, memory=memory)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.count == 1

    def test_they_are_counted_on_after_the_status_was_written(self) -> None:
        memory = told(REFUSED)
        noted = Status(last_failure=memory.receipts.unreported.failure)
        memory.receipts.unreported = Unreported()
        memory.record_outcomes([Outcome("uid", State.LOADING, REFUSED)], noted, NOON + seconds(9))
        assert memory.receipts.unreported.failure is not None
        assert (memory.receipts.unreported.failure.count, memory.receipts.unreported.failure.time) == (
            2,
            NOON + seconds(9),
        )

    def test_an_unload_that_is_refused_is_no_failed_load(self) -> None:
        memory = ModelMemory()
        memory.record_outcomes([Outcome("uid", State.UNLOADING, REFUSED)], Status(), NOON)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.reason == "UnloadRefused"

    def test_a_load_that_somebody_gave_up_is_no_failure(self) -> None:
        given_up = PodRefused("The load was given up.", code="superseded", status=409)
        memory = told(given_up)
        assert (memory.receipts.unreported, memory.back_off.retry_at) == (Unreported(), None)

    def test_a_failure_after_a_recovery_is_the_first_again(self) -> None:
        old = Status(last_failure=LastFailure(reason="LoadFailed", message="", time=NOON, count=7))
        memory = ModelMemory()
        memory.record_outcomes([Outcome("uid", State.LOADING, REFUSED)], old, NOON)
        assert memory.receipts.unreported.failure is not None
        assert memory.receipts.unreported.failure.count == 1


class TestSightings:
    SILENT = view_of(None, unresponsive="timed out")

    def test_the_last_words_of_each_pod_are_kept_while_it_lives(self) -> None:
        sightings = Sightings()
        sightings.record([view_of(State.LOADED)], NOON, read_memory=False)
        sightings.record([self.SILENT], NOON, read_memory=False)
        assert sightings.last_states == {UID: State.LOADED}
        sightings.record([view_of(State.UNLOADED, name="base-2")], NOON, read_memory=False)
        assert sightings.last_states == {"uid-base-2": State.UNLOADED}

    def test_silence_counts_from_its_beginning_and_ends_with_a_word(self) -> None:
        sightings = Sightings()
        for second in range(3):
            sightings.record([self.SILENT], NOON + seconds(second), read_memory=False)
        assert sightings.unresponsive_since == NOON
        sightings.record([view_of()], NOON + seconds(9), read_memory=False)
        assert sightings.unresponsive_since is None

    def test_a_pod_that_still_starts_is_not_silent(self) -> None:
        sightings = Sightings()
        sightings.record([view_of(None)], NOON, read_memory=False)
        assert sightings.unresponsive_since is None

    def test_when_memory_was_asked_for_is_kept(self) -> None:
        sightings = Sightings()
        sightings.record([], NOON, read_memory=True)
        sightings.record([], NOON + seconds(9), read_memory=False)
        assert sightings.memory_read_at == NOON
