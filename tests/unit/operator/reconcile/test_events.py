"""Events between two statuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, cast

import pytest
import structlog

from testing.operator_harness import NOON, seconds
from whisper_cluster.api import EVENTS, Cluster, Kind
from whisper_cluster.errors import ClusterError
from whisper_operator.reconcile.events import (
    MISSED_AFTER,
    EventReason,
    ModelEvent,
    Recorder,
    events_between,
    lag_of_schedule,
)
from whisper_operator.resources.identity import Identity
from whispermodel.durations import LONGEST, format_duration
from whispermodel.planning.modes import Reason
from whispermodel.states import State
from whispermodel.status import Condition, LastFailure, LastLoad, LastUnload, NextTransition, Status

MIB = 2**20
LOAD = LastLoad(time=NOON, seconds=2.5, trigger="Demand")
UNLOAD = LastUnload(
    time=NOON, seconds=0.3, freed_resident_bytes=300 * MIB, freed_gpu_bytes=1000 * MIB, fully_released=True
)
LEFT_BEHIND = UNLOAD.model_copy(update={"fully_released": False})
MESSAGE = "Loaded by schedule 'morning'."


def status_of(state: State | None = State.LOADED, **fields: Any) -> Status:
    return Status(state=state, target=state, message=MESSAGE, **fields)


def between(before: Status, after: Status) -> list[ModelEvent]:
    return list(events_between(before, after, lag=lag_of_schedule(before, after, NOON)))


def conflict(status: Literal["True", "False"]) -> tuple[Condition, ...]:
    condition = Condition(
        type="ScalerConflict", status=status, reason="x", message="'keda' too.", last_transition_time=NOON
    )
    return (condition,)


class TestStates:
    @pytest.mark.parametrize(
        ("before", "after", "reason", "note"),
        [
            pytest.param(State.ZERO, status_of(State.STARTING), EventReason.WAKING, MESSAGE, id="woken"),
            pytest.param(State.UNLOADED, status_of(State.LOADING), EventReason.LOADING, MESSAGE, id="loading"),
            pytest.param(State.LOADING, status_of(State.LOADED, last_load=LOAD), EventReason.LOADED,
                         f"Loaded in 2.50 s. {MESSAGE}", id="loaded, with what it took"),
            pytest.param(State.LOADING, status_of(State.LOADED), EventReason.LOADED, MESSAGE, id="loaded by others"),
            pytest.param(State.LOADED, status_of(State.UNLOADING), EventReason.UNLOADING, MESSAGE, id="unloading"),
            pytest.param(State.UNLOADING, status_of(State.UNLOADED, last_unload=UNLOAD), EventReason.UNLOADED,
                         f"Freed 300 MiB of memory and 1000 MiB of GPU memory. {MESSAGE}",
                         id="unloaded, with what it freed"),
            pytest.param(State.UNLOADING, status_of(State.ZERO), EventReason.SCALED_TO_ZERO, MESSAGE, id="at zero"),
            pytest.param(None, status_of(State.UNLOADED), EventReason.UNLOADED, MESSAGE, id="found unloaded"),
        ],
    )  # fmt: skip
    def test_reached_state_is_an_event(
        self, before: State | None, after: Status, reason: EventReason, note: str
    ) -> None:
        before_status = after.model_copy(update={"state": before, "last_load": None, "last_unload": None})
        assert between(before_status, after) == [ModelEvent(reason, note)]

    def test_note_without_gpu(self) -> None:
        cpu = UNLOAD.model_copy(update={"freed_gpu_bytes": 0})
        [event] = between(status_of(State.UNLOADING), status_of(State.UNLOADED, last_unload=cpu))
        assert event.note.startswith("Freed 300 MiB of memory. ")

    @pytest.mark.parametrize("state", [State.LOADED, State.UNLOADED])
    def test_earlier_receipts_are_not_repeated(self, state: State) -> None:
        receipts = {"last_load": LOAD, "last_unload": UNLOAD}
        [event] = between(status_of(State.STARTING, **receipts), status_of(state, **receipts))
        assert event.note == MESSAGE

    @pytest.mark.parametrize("state", State)
    def test_unchanged_status_has_no_events(self, state: State) -> None:
        status = status_of(state, last_load=LOAD, last_unload=LEFT_BEHIND, conditions=conflict("True"))
        assert between(status, status.model_copy(update={"message": "other words"})) == []

    def test_new_model_at_zero_is_no_event(self) -> None:
        assert between(Status(), status_of(State.ZERO)) == []


class TestTroubles:
    @pytest.mark.parametrize(
        ("cause", "reason"), [("LoadFailed", EventReason.LOAD_FAILED), ("ImagePull", EventReason.POD_FAILED)]
    )
    def test_failure_is_a_warning_with_its_root_cause(self, cause: str, reason: EventReason) -> None:
        failure = LastFailure(reason=cause, message="not found", time=NOON, count=1)
        assert between(status_of(), status_of(last_failure=failure)) == [
            ModelEvent(reason, f"{cause}: not found", "Warning")
        ]

    def test_repeated_failure_is_another_event(self) -> None:
        failures = [LastFailure(reason="Crash", message=".", time=NOON, count=count) for count in (1, 2)]
        events = between(*(status_of(last_failure=failure) for failure in failures))
        assert [one.reason for one in events] == [EventReason.POD_FAILED]

    @pytest.mark.parametrize(("unload", "count"), [(LEFT_BEHIND, 1), (UNLOAD, 0)], ids=["left behind", "all freed"])
    def test_unreleased_memory_is_a_warning(self, unload: LastUnload, count: int) -> None:
        found = between(status_of(), status_of(last_unload=unload))
        assert [one.reason for one in found] == [EventReason.MEMORY_NOT_RELEASED] * count

    @pytest.mark.parametrize(
        ("before", "after", "count"),
        [
            pytest.param((), conflict("True"), 1, id="it begins"),
            pytest.param(conflict("True"), conflict("False"), 0, id="its end is seen in the conditions"),
            pytest.param((), conflict("False"), 0, id="the first look finds none"),
            pytest.param(conflict("True"), conflict("True"), 0, id="it lasts"),
        ],
    )
    def test_scaler_conflict_is_a_warning(self, before: Any, after: Any, count: int) -> None:
        found = between(status_of(conditions=before), status_of(conditions=after))
        assert [one.reason for one in found] == [EventReason.SCALER_CONFLICT] * count


class TestLag:
    def planned(self, lag: timedelta) -> Status:
        due = NextTransition(time=NOON - lag, state=State.UNLOADED, by="evening", summary="Unloaded Mon 20:00 UTC")
        return status_of(next_transition=due)

    AFTER = status_of(State.UNLOADED, reason=Reason.SCHEDULE)

    @pytest.mark.parametrize("lag", [timedelta(), seconds(0.4), timedelta(days=3)])
    def test_lag_of_a_scheduled_change(self, lag: timedelta) -> None:
        assert lag_of_schedule(self.planned(lag), self.AFTER, NOON) == lag

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param(status_of(), AFTER, id="none was planned"),
            pytest.param(status_of(State.UNLOADED), AFTER, id="the target stays"),
            pytest.param(None, AFTER, id="it is not due yet"),
            pytest.param("late", status_of(State.UNLOADED, reason=Reason.DEMAND), id="something else decided"),
        ],
    )
    def test_no_lag(self, before: Status | str | None, after: Status) -> None:
        planned = before if isinstance(before, Status) else self.planned(seconds(5 if before else -5))
        assert lag_of_schedule(planned, after, NOON) is None

    @pytest.mark.parametrize(
        ("lag", "missed"), [(MISSED_AFTER, False), (MISSED_AFTER + seconds(1), True)], ids=["a minute", "more"]
    )
    def test_missed_schedule_is_a_warning(self, lag: timedelta, missed: bool) -> None:
        events = between(self.planned(lag), self.AFTER)
        assert (EventReason.SCHEDULE_MISSED in [one.reason for one in events]) is missed

    def test_lag_is_noted_in_whole_seconds(self) -> None:
        [_, event] = between(self.planned(seconds(3723.4)), self.AFTER)
        assert event.note == f"{MESSAGE} The change started 1h2m3s late."

    def test_lag_that_no_duration_can_express_is_noted_as_the_longest(self) -> None:
        [_, event] = between(self.planned(timedelta(days=36_500)), self.AFTER)
        assert event.note == f"{MESSAGE} The change started {format_duration(LONGEST)} late."

    def test_exception_has_a_lag_too(self) -> None:
        after = status_of(State.UNLOADED, reason=Reason.EXCEPTION)
        assert lag_of_schedule(self.planned(seconds(5)), after, NOON) == seconds(5)


@dataclass
class EventsOnly:
    """An API server that accepts valid Events only, or refuses all."""

    refuses: bool = False
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def create(self, kind: Kind, body: dict[str, Any]) -> dict[str, object]:
        if self.refuses:
            raise ClusterError("create", code=403, reason="forbidden")
        assert kind is EVENTS
        # pkg/apis/core/validation/events.go; Go counts bytes.
        assert len(body["note"].encode()) <= 1024
        assert 0 < len(body["reason"]) <= 128
        assert 0 < len(body["action"]) <= 128
        assert len(body["metadata"]["name"]) <= 253
        self.events.append(body)
        return body


ABOUT = Identity("speech", "base", "uid-1")


async def emitted(note: str = "Loaded.", *, times: int = 1) -> list[dict[str, Any]]:
    server = EventsOnly()
    recorder = Recorder(cast("Cluster", server), instance="operator-1")
    for _ in range(times):
        await recorder.emit(ABOUT, ModelEvent(EventReason.LOADED, note), NOON)
    return server.events


class TestRecorder:
    async def test_event_names_the_model_and_the_change(self) -> None:
        [event] = await emitted()
        assert event["regarding"] == {
            "apiVersion": "audio-transcriber.io/v1alpha1",
            "kind": "WhisperModel",
            "namespace": "speech",
            "name": "base",
            "uid": "uid-1",
        }
        assert (event["reason"], event["type"], event["note"]) == ("Loaded", "Normal", "Loaded.")
        assert event["eventTime"] == "2026-03-02T12:00:00.000000Z"
        assert event["reportingInstance"] == "operator-1"

    async def test_event_names_are_unique(self) -> None:
        events = await emitted(times=3)
        assert len({event["metadata"]["name"] for event in events}) == 3

    @pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, "語" * 5000, "x" + "🎤" * 5000])
    async def test_note_is_truncated_to_the_limit(self, text: str) -> None:
        [event] = await emitted(text)
        assert text.startswith(event["note"])
        assert len(event["note"].encode()) > 1020

    async def test_unwritable_event_is_only_logged(self) -> None:
        recorder = Recorder(cast("Cluster", EventsOnly(refuses=True)), instance="operator-1")
        with structlog.testing.capture_logs() as logs:
            await recorder.emit(ABOUT, ModelEvent(EventReason.LOADED, "."), NOON)
        assert [line["event"] for line in logs] == ["event.not_written"]
