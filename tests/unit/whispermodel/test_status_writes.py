"""What every writer of a status does alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from testing.planner_cases import DAY, spec_of, utc
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import plan
from whispermodel.states import State
from whispermodel.status import LastFailure, Status
from whispermodel.status_writes import (
    is_write_due,
    memory,
    next_transition,
    recent_starts,
    shortened,
    state_since,
    whole,
)

NOON = utc("2026-03-02T12:00:00.7")
SECOND = timedelta(seconds=1)


def test_a_message_keeps_as_much_as_a_status_holds() -> None:
    assert shortened("x" * 4096) == "x" * 4096
    assert shortened("x" * 5000) == "x" * 4093 + "..."


def test_a_state_keeps_the_time_since_when_it_is() -> None:
    before = Status(state=State.LOADED, since=utc("2026-03-02T07:00"))
    assert state_since(before, State.LOADED, NOON) == before.since
    assert state_since(before, State.UNLOADED, NOON) == whole(NOON)
    assert state_since(Status(state=State.LOADED), State.LOADED, NOON) == whole(NOON)


def test_the_last_five_starts_are_kept_the_latest_first() -> None:
    known = Status(recent_start_seconds=(5.0, 4.0, 3.0, 2.0, 1.0))
    assert recent_starts(known, 6.0) == (6.0, 5.0, 4.0, 3.0, 2.0)
    assert recent_starts(known, None) == known.recent_start_seconds


def test_a_planned_transition_is_reported_in_whole_seconds() -> None:
    coming = plan(spec_of(schedule=DAY), Observed(State.LOADED), NOON).next_transition
    reported = next_transition(coming)
    assert reported is not None
    assert (reported.time, reported.state, reported.summary) == (
        utc("2026-03-02T20:00"),
        State.UNLOADED,
        "Unloaded Mon 20:00 UTC",
    )
    assert next_transition(None) is None


def test_memory_has_a_summary_for_people() -> None:
    held = memory(resident=412 * 2**20 + 1, gpu=1, gpu_reserved=2, at=NOON)
    assert (held.summary, held.resident_bytes, held.observed_at) == ("412Mi", 412 * 2**20 + 1, whole(NOON))


FAILURE = LastFailure(reason="Crash", message="It exited after 3 s.", time=whole(NOON), count=1)
BEFORE = Status(state=State.LOADED, message="Loaded.", idle_since=whole(NOON), last_failure=FAILURE)


@pytest.mark.parametrize(
    ("change", "after", "due"),
    [
        pytest.param({}, timedelta(hours=1), False, id="nothing"),
        pytest.param({"state": State.UNLOADED}, SECOND, True, id="a state, at once"),
        pytest.param({"last_failure": FAILURE.model_copy(update={"count": 2})}, SECOND, True, id="a failure, at once"),
        pytest.param({"idle_since": NOON + SECOND}, 9 * SECOND, False, id="a figure, not yet"),
        pytest.param({"idle_since": NOON + SECOND}, 10 * SECOND, True, id="a figure, once in a while"),
        pytest.param(
            {"last_failure": FAILURE.model_copy(update={"message": "It exited after 4 s."})},
            9 * SECOND,
            False,
            id="a number in the message of a known failure",
        ),
    ],
)
def test_a_status_is_worth_a_write(change: dict[str, object], after: timedelta, due: bool) -> None:
    changed = BEFORE.model_copy(update=change)
    assert is_write_due(BEFORE, changed, written_at=NOON, now=NOON + after, figures_every=10 * SECOND) is due
