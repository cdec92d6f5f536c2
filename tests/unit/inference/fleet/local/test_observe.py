"""What the planner sees of a model of this machine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from whisper_inference.fleet.demand import Declaration
from whisper_inference.fleet.local.observe import Sighting, idle_since, observed
from whisper_inference.standalone.record import Record
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Mode, State
from whispermodel.status import Status

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
AGO = timedelta(minutes=1)
REST = Sighting(NOW, State.LOADED, None, Declaration(), running=False)
WORKED = Record(status=Status(idle_since=NOW - AGO))


def test_declared_demand_counts_until_it_ends_and_its_end_is_the_last_work() -> None:
    needed = replace(REST, declared=Declaration(renewed_at=NOW - timedelta(seconds=5)))
    assert observed(needed, WORKED).demanded
    ended = replace(REST, declared=Declaration(renewed_at=NOW - timedelta(seconds=5), seconds=1))
    assert not observed(ended, WORKED).demanded
    assert observed(ended, WORKED).idle_since == NOW - timedelta(seconds=4)
    assert idle_since(REST, NOW - AGO) == NOW - AGO


def test_model_that_makes_room_finishes_its_job_and_takes_no_other() -> None:
    needed = replace(REST, declared=Declaration(renewed_at=NOW), leaving=True)
    assert observed(replace(needed, running=True), WORKED).demanded
    assert not observed(needed, WORKED).demanded


def test_model_that_made_room_is_not_loaded_for_having_worked_a_moment_ago() -> None:
    assert observed(replace(REST, made_room=True), WORKED).idle_since is None


def test_latest_manual_command_counts_and_one_from_the_future_not_yet() -> None:
    old, new = ManualCommand(Mode.LOADED, NOW - AGO), ManualCommand(Mode.UNLOADED, NOW)
    record = Record(manual=old)
    assert observed(replace(REST, declared=Declaration(manual=new)), record).manual == new
    future = ManualCommand(Mode.UNLOADED, NOW + AGO)
    assert observed(replace(REST, declared=Declaration(manual=future)), record).manual == old


def test_failed_start_is_retried_after_its_pause() -> None:
    failed = replace(REST, state=State.FAILED, back_off_seconds=4.0)
    assert observed(failed, Record()).retry_at == NOW + timedelta(seconds=4)
