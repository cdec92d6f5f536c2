"""The controller of a model file, in virtual time and over stand-in processes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
import yaml

from testing.controller_harness import (
    MONDAY,
    OFFICE_HOURS,
    ControllerHarness,
    MemoryRecords,
    manifest,
    running_controller,
)
from testing.owner_harness import MISSING
from testing.processes_stand_in import LoadScript
from testing.virtual_time import run
from whisper_inference.errors import NotAudio, Superseded
from whisper_inference.settings import Settings
from whisper_inference.standalone.manifest import ManifestError
from whisper_inference.standalone.record import Record
from whispermodel.states import Depth, State
from whispermodel.status import Status

T = TypeVar("T")

QUARTER_THEN_ZERO = {"unloadAfter": "15m", "scaleToZeroAfter": "1h"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def at_once(_executor: object, call: Callable[[], T]) -> asyncio.Future[T]:
    """Stand in for the loop's threads, which take no virtual time."""
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    try:
        done.set_result(call())
    except ManifestError as error:
        done.set_exception(error)
    return done


def in_virtual_time(body: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    def test(tmp_path: Path) -> None:
        async def with_deadline() -> None:
            vars(asyncio.get_running_loop())["run_in_executor"] = at_once
            async with asyncio.timeout(10_000_000):
                await body(tmp_path)

        run(with_deadline)

    test.__name__ = body.__name__
    test.__doc__ = inspect.getdoc(body)
    return test


@in_virtual_time
async def test_model_stays_at_zero_before_any_work(tmp_path: Path) -> None:
    async with running_controller(tmp_path, idle=QUARTER_THEN_ZERO) as harness:
        await asyncio.sleep(3600)
        assert (harness.state, harness.status.message) == (State.ZERO, "Zero until a request arrives.")
        assert harness.owner_harness.processes.started_loads == 0


@in_virtual_time
async def test_idle_model_goes_warm_then_cold_then_zero(tmp_path: Path) -> None:
    async with running_controller(tmp_path, idle=QUARTER_THEN_ZERO) as harness:
        await harness.server.job(60)
        await asyncio.sleep(14 * 60)
        assert (harness.state, harness.depth) == (State.LOADED, None)
        await asyncio.sleep(2 * 60)
        assert (harness.state, harness.depth) == (State.UNLOADED, Depth.WARM)
        await asyncio.sleep(15 * 60)
        assert (harness.state, harness.depth) == (State.UNLOADED, Depth.COLD)
        await asyncio.sleep(30 * 60)
        assert (harness.state, harness.depth) == (State.ZERO, Depth.COLD)


@in_virtual_time
async def test_work_loads_the_model_from_zero(tmp_path: Path) -> None:
    async with running_controller(tmp_path, idle=QUARTER_THEN_ZERO) as harness:
        await harness.server.job(1)
        await asyncio.sleep(7200)
        assert harness.state is State.ZERO
        await harness.server.job(1)
        await asyncio.sleep(1)
        assert harness.state is State.LOADED
        assert harness.owner_harness.processes.started_loads == 2


@in_virtual_time
async def test_schedule_loads_and_unloads_daily(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        assert (harness.state, harness.status.reason) == (State.LOADING, "Schedule")
        for _ in range(3):
            await harness.until("19:59")
            assert harness.state is State.LOADED
            await harness.until("20:00")
            assert (harness.state, harness.depth) == (State.UNLOADED, Depth.COLD)
            await harness.until("06:59", days=1)
            assert harness.state is State.UNLOADED
            await harness.until("07:00")
            assert harness.status.target is State.LOADED
            await asyncio.sleep(5)
            assert harness.state is State.LOADED


@in_virtual_time
async def test_work_outside_the_schedule_is_served(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await harness.until("22:00")
        await harness.server.job(60)
        await asyncio.sleep(14 * 60)
        assert (harness.state, harness.status.reason) == (State.LOADED, "Demand")
        await asyncio.sleep(120)
        assert (harness.state, harness.status.reason, harness.depth) == (State.UNLOADED, "Schedule", Depth.COLD)


@in_virtual_time
async def test_scheduled_unload_waits_for_the_running_job(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await harness.until("19:59")
        job = asyncio.create_task(harness.server.job(600))
        await harness.until("20:05")
        assert harness.state is State.LOADED
        await job
        await asyncio.sleep(1)
        assert harness.state is State.UNLOADED
        assert harness.owner_harness.processes.started_loads == 1


@in_virtual_time
async def test_scheduled_unload_waits_for_an_upload(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await harness.until("19:59")
        job = asyncio.create_task(harness.server.job(10, upload_seconds=600))
        await harness.until("20:05")
        assert harness.state is State.LOADED
        await job
        assert harness.owner_harness.processes.started_loads == 1


async def refused(harness: ControllerHarness, *, after: float) -> None:
    with suppress(NotAudio):
        async with harness.server.owner.expected_work():
            await asyncio.sleep(after)
            raise NotAudio(reason="it is a picture")


@pytest.mark.parametrize("spec", [{"idle": QUARTER_THEN_ZERO}, {"desiredState": "Zero"}], ids=["Auto", "Zero"])
@pytest.mark.parametrize("after", [0.5, 30], ids=["while it loads", "when it has loaded"])
def test_failed_upload_leaves_the_model_at_zero(tmp_path: Path, after: float, spec: dict[str, Any]) -> None:
    @in_virtual_time
    async def test_story(tmp_path: Path) -> None:
        async with running_controller(tmp_path, **spec) as harness:
            before = harness.status.message
            await refused(harness, after=after)
            await asyncio.sleep(2)
            assert (harness.state, harness.depth) == (State.ZERO, Depth.COLD)
            assert (harness.status.message, harness.status.idle_since) == (before, None)

    test_story(tmp_path)


@in_virtual_time
async def test_failed_uploads_do_not_prolong_the_idle_time(tmp_path: Path) -> None:
    async with running_controller(tmp_path, idle=QUARTER_THEN_ZERO) as harness:
        await harness.server.job(60)
        for _ in range(60):
            await refused(harness, after=1)
            await asyncio.sleep(60)
        assert harness.state is State.ZERO


@in_virtual_time
async def test_scheduled_load_survives_a_failed_upload(tmp_path: Path) -> None:
    async with running_controller(
        tmp_path, start=datetime(2026, 3, 2, 6, 58, tzinfo=UTC), schedule=OFFICE_HOURS
    ) as harness:
        await refused(harness, after=240)
        await asyncio.sleep(60)
        assert (harness.state, harness.status.reason) == (State.LOADED, "Schedule")
        assert harness.owner_harness.processes.started_loads == 1


@in_virtual_time
async def test_overruled_manual_load_is_told_what_decides(tmp_path: Path) -> None:
    async with running_controller(tmp_path, desiredState="Zero") as harness:
        with pytest.raises(Superseded):
            await harness.command("Loaded")
        assert harness.controller.overruling() == harness.status.message
        assert harness.status.message.startswith("Zero by desiredState since Mon ")
    async with running_controller(tmp_path) as harness:
        await harness.command("Unloaded")
        await asyncio.sleep(1)
        assert (harness.status.reason, harness.controller.overruling()) == ("Manual", None)


@in_virtual_time
async def test_override_beats_the_schedule_until_it_expires(tmp_path: Path) -> None:
    override = {"state": "Loaded", "until": "2026-03-02T22:00:00+00:00", "reason": "release test"}
    async with running_controller(tmp_path, schedule=OFFICE_HOURS, override=override) as harness:
        await harness.until("21:59")
        assert (harness.state, harness.status.reason) == (State.LOADED, "Override")
        await harness.until("22:00")
        assert (harness.state, harness.status.reason) == (State.UNLOADED, "Schedule")


@in_virtual_time
async def test_suspended_model_still_loads_for_work(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS, suspend=True) as harness:
        assert (harness.state, harness.status.reason) == (State.ZERO, "Suspended")
        await harness.server.job(1)
        await harness.until("23:00")
        assert harness.state is State.LOADED
        assert harness.condition("Ready").status == "True"


@in_virtual_time
async def test_scheduled_load_starts_early_by_the_measured_time(tmp_path: Path) -> None:
    records = MemoryRecords()
    records.text = Record(status=Status(recent_start_seconds=(300.0, 240.0))).model_dump_json()
    slow, fast = LoadScript(imports=300), LoadScript()
    schedule = {**OFFICE_HOURS, "leadTime": "Auto"}
    async with running_controller(tmp_path, records=records, loads=(fast, slow), schedule=schedule) as harness:
        await harness.until("06:54", days=1)
        assert harness.state is State.UNLOADED
        await harness.until("06:56")
        assert harness.state is State.LOADING
        await harness.until("07:01")
        assert harness.state is State.LOADED
        assert harness.status.recent_start_seconds[1:] == (0.0, 300.0, 240.0)


@in_virtual_time
async def test_refuse_policy_rejects_new_work_until_the_next_load(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS, demandPolicy="Refuse") as harness:
        await harness.until("19:59")
        assert harness.controller.refusal() is None
        job = asyncio.create_task(harness.server.job(600))
        await harness.until("20:05")
        refusal = harness.controller.refusal()
        assert refusal is not None
        assert refusal.retry_after == pytest.approx(timedelta(hours=10, minutes=55).total_seconds(), abs=5)
        assert "accepted from Tue 07:00 UTC" in str(refusal)
        assert harness.condition("Ready").reason == "Refused"
        await job
        await harness.until("07:00", days=1)
        assert harness.controller.refusal() is None


@in_virtual_time
async def test_refusal_without_a_known_end_has_a_long_retry_after(tmp_path: Path) -> None:
    async with running_controller(tmp_path, desiredState="Zero", demandPolicy="Refuse") as harness:
        refusal = harness.controller.refusal()
        assert refusal is not None
        assert (refusal.code, refusal.retry_after) == ("refused-for-now", 86_400)


@in_virtual_time
async def test_manual_unload_holds_until_the_next_fire(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await harness.until("13:00")
        await harness.command("Unloaded")
        await harness.until("19:00")
        assert (harness.state, harness.status.reason) == (State.UNLOADED, "Manual")
        assert harness.status.manual is not None
        await harness.until("07:00", days=1)
        await asyncio.sleep(5)
        assert (harness.state, harness.status.reason, harness.status.manual) == (State.LOADED, "Schedule", None)


@in_virtual_time
async def test_manual_command_is_kept_under_an_override(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await harness.until("13:00")
        await harness.command("Unloaded")
        harness.write(schedule=OFFICE_HOURS, override={"state": "Loaded", "until": "2026-03-02T15:00:00Z"})
        await harness.until("14:00")
        assert (harness.state, harness.status.reason) == (State.LOADED, "Override")
        assert harness.status.manual is not None
        await harness.until("16:00")
        assert (harness.state, harness.status.reason) == (State.UNLOADED, "Manual")


@in_virtual_time
async def test_manual_load_holds_without_work(tmp_path: Path) -> None:
    async with running_controller(tmp_path, idle={"unloadAfter": "1m"}) as harness:
        await harness.command("Loaded")
        await asyncio.sleep(86_400)
        assert (harness.state, harness.status.reason) == (State.LOADED, "Manual")


@in_virtual_time
async def test_manual_command_survives_a_restart(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with running_controller(tmp_path, records=records, schedule=OFFICE_HOURS) as harness:
        await harness.until("13:00")
        await harness.command("Unloaded")
    async with running_controller(
        tmp_path, records=records, start=MONDAY + timedelta(hours=2), schedule=OFFICE_HOURS
    ) as harness:
        assert harness.controller.manual is not None
        await harness.until("19:00")
        assert (harness.state, harness.status.reason) == (State.UNLOADED, "Manual")
        assert harness.owner_harness.processes.started_loads == 0


@in_virtual_time
async def test_missed_fire_is_caught_up_at_the_start(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with running_controller(tmp_path, records=records, schedule=OFFICE_HOURS) as harness:
        await harness.until("20:30")
        assert harness.state is State.UNLOADED
    tuesday = MONDAY + timedelta(days=1, hours=-3)
    async with running_controller(tmp_path, records=records, start=tuesday, schedule=OFFICE_HOURS) as harness:
        await asyncio.sleep(5)
        assert (harness.state, harness.status.reason) == (State.LOADED, "Schedule")
        assert harness.status.message.startswith("Loaded by schedule 'morning' since Tue 07:00 UTC")


@in_virtual_time
async def test_missed_fire_supersedes_a_manual_command(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with running_controller(tmp_path, records=records, schedule=OFFICE_HOURS) as harness:
        await harness.command("Unloaded")
    wednesday = MONDAY + timedelta(days=2)
    async with running_controller(tmp_path, records=records, start=wednesday, schedule=OFFICE_HOURS) as harness:
        await asyncio.sleep(5)
        assert (harness.state, harness.status.reason) == (State.LOADED, "Schedule")


@in_virtual_time
async def test_idle_time_continues_after_a_restart(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with running_controller(tmp_path, records=records, idle=QUARTER_THEN_ZERO) as harness:
        await harness.server.job(1)
        await asyncio.sleep(60)
        ended = harness.status.idle_since
    async with running_controller(
        tmp_path, records=records, start=MONDAY + timedelta(minutes=40), idle=QUARTER_THEN_ZERO
    ) as harness:
        assert (harness.state, harness.status.idle_since) == (State.UNLOADED, ended)
        await asyncio.sleep(30 * 60)
        assert harness.state is State.ZERO


@in_virtual_time
async def test_recovered_jobs_load_the_model(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS, start=MONDAY + timedelta(hours=10)) as harness:
        harness.server.waiting = 1
        await harness.server.serve(1)
        await asyncio.sleep(1)
        assert (harness.state, harness.status.reason) == (State.LOADED, "Demand")


@in_virtual_time
async def test_failed_load_is_retried_and_reported(tmp_path: Path) -> None:
    loads = (LoadScript(failure=MISSING, loading=1.0),) * 2
    async with running_controller(tmp_path, loads=loads, desiredState="Loaded") as harness:
        await asyncio.sleep(3.5)
        assert harness.state is State.FAILED
        assert harness.condition("Ready").reason == harness.condition("Degraded").reason == "LoadFailed"
        assert "/nowhere" in harness.condition("Degraded").message
        met = set[State | None]()
        async with asyncio.timeout(30):
            while harness.status.state is not State.LOADED:
                # Not well again while it is tried: who waits for Ready would find a model that has never loaded.
                assert (harness.condition("Ready").status, harness.condition("Degraded").status) == ("False", "True")
                met.add(harness.status.state)
                await asyncio.sleep(0.05)
        assert met == {State.FAILED, State.LOADING}
        assert harness.condition("Degraded").status == "False"
        failure = harness.status.last_failure
        assert failure is not None
        assert (failure.reason, failure.count) == ("LoadFailed", 2)


@in_virtual_time
async def test_unneeded_failed_load_is_not_retried(tmp_path: Path) -> None:
    async with running_controller(
        tmp_path, loads=(LoadScript(failure=MISSING),) * 60, desiredState="Loaded"
    ) as harness:
        await asyncio.sleep(3)
        harness.write(desiredState="Unloaded")
        await asyncio.sleep(65)
        assert (harness.state, harness.depth) == (State.FAILED, Depth.COLD)
        assert harness.condition("Progressing").reason == "AtRest"
        assert harness.condition("Degraded").reason == "LoadFailed"


@in_virtual_time
async def test_zygote_of_a_failed_load_is_ended_when_unneeded(tmp_path: Path) -> None:
    async with running_controller(tmp_path, loads=(LoadScript(failure=MISSING),) * 60) as harness:
        async with harness.server.owner.expected_work():
            await asyncio.sleep(3)
        await asyncio.sleep(14 * 60)
        assert (harness.state, harness.depth) == (State.FAILED, Depth.WARM)
        await asyncio.sleep(2 * 60)
        assert (harness.state, harness.depth) == (State.FAILED, Depth.COLD)


@in_virtual_time
async def test_invalid_edit_keeps_the_last_valid_version(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        harness.write(schedule=OFFICE_HOURS, idle={"unloadAfter": "soon"})
        await asyncio.sleep(25)
        degraded = harness.condition("Degraded")
        assert (degraded.status, degraded.reason) == ("True", "InvalidModelFile")
        assert "spec.idle.unloadAfter: 'soon' is not a duration" in degraded.message
        assert "last valid version stays in effect" in degraded.message
        await harness.until("20:00")
        assert harness.state is State.UNLOADED
        harness.write(schedule=OFFICE_HOURS)
        await asyncio.sleep(25)
        assert harness.condition("Degraded").status == "False"


@in_virtual_time
async def test_unknown_time_zone_sets_schedule_valid_false(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        harness.write(schedule={**OFFICE_HOURS, "timeZone": "Europe/Atlantis"})
        await asyncio.sleep(25)
        condition = harness.condition("ScheduleValid")
        assert (condition.status, condition.reason) == ("False", "InvalidSchedule")
        assert "Europe/Atlantis" in condition.message
        assert harness.status.reason == "Schedule"


@in_virtual_time
async def test_valid_edit_takes_effect_at_once(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await asyncio.sleep(5)
        assert (harness.state, harness.status.observed_generation) == (State.LOADED, 1)
        harness.write(desiredState="Zero")
        await asyncio.sleep(25)
        assert (harness.state, harness.status.observed_generation) == (State.ZERO, 2)
        assert harness.status.spec_since == pytest.approx(harness.now(), abs=timedelta(seconds=30))


@in_virtual_time
async def test_unexpected_error_in_an_edit_does_not_end_the_watch(tmp_path: Path) -> None:
    def fail(settings: Settings) -> None:
        raise OSError("unforeseen")

    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        configure, harness.server.configure = harness.server.configure, fail
        with structlog.testing.capture_logs() as logs:
            harness.write(desiredState="Unloaded")
            await asyncio.sleep(25)
        assert [line["log_level"] for line in logs if line["event"] == "model.file_not_followed"] == ["error"]
        harness.server.configure = configure
        harness.write(desiredState="Zero")
        await asyncio.sleep(25)
        assert (harness.state, harness.status.target) == (State.ZERO, State.ZERO)


@in_virtual_time
async def test_unchanged_file_keeps_its_generation_after_a_restart(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with running_controller(tmp_path, records=records) as harness:
        since = harness.status.spec_since
    async with running_controller(tmp_path, records=records, start=MONDAY + timedelta(days=1)) as harness:
        assert (harness.status.observed_generation, harness.status.spec_since) == (1, since)
    async with running_controller(tmp_path, records=records, start=MONDAY + timedelta(days=2), suspend=True) as harness:
        assert harness.status.observed_generation == 2


@in_virtual_time
async def test_changed_model_is_loaded_after_the_running_job(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as harness:
        job = asyncio.create_task(harness.server.job(600))
        await asyncio.sleep(60)
        harness.write(size="base.en")
        await asyncio.sleep(25)
        assert harness.state is State.LOADED
        assert harness.condition("Progressing").reason == "ModelChanging"
        assert harness.server.configured[-1].model == "base.en"
        await job
        await asyncio.sleep(5)
        assert not harness.server.owner.holds_former_model
        assert harness.owner_harness.processes.started_loads == 2
        assert harness.state is State.LOADED


@in_virtual_time
async def test_manual_load_does_not_keep_the_former_model(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as harness:
        job = asyncio.create_task(harness.server.job(600))
        await asyncio.sleep(60)
        harness.write(size="base.en")
        await asyncio.sleep(25)
        await harness.command("Loaded")
        await job
        await asyncio.sleep(5)
        assert not harness.server.owner.holds_former_model
        assert harness.state is State.LOADED


@in_virtual_time
async def test_changed_model_is_loaded_despite_the_former_back_off(tmp_path: Path) -> None:
    loads = (LoadScript(failure=MISSING),) * 7
    async with running_controller(tmp_path, loads=loads, desiredState="Loaded") as harness:
        await asyncio.sleep(70)
        assert harness.state is State.FAILED
        harness.write(size="base.en", desiredState="Loaded")
        await asyncio.sleep(25)
        assert harness.state is State.LOADED


@in_virtual_time
async def test_idle_controller_neither_polls_nor_saves(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as harness:
        await asyncio.sleep(1)
        looks, saves, shown = harness.server.looks, harness.records.saves, len(harness.shown)
        await asyncio.sleep(86_400)
        assert (harness.server.looks, harness.records.saves, len(harness.shown)) == (looks, saves, shown)


@in_virtual_time
async def test_burst_of_requests_is_one_reconciliation(tmp_path: Path) -> None:
    async with running_controller(tmp_path, desiredState="Loaded") as harness:
        await asyncio.sleep(5)
        looks = harness.server.looks
        for _ in range(500):
            await harness.server.job(0.01)
        assert harness.server.looks - looks < 500


@in_virtual_time
async def test_fire_missed_during_suspend_is_caught_up_within_half_a_minute(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await asyncio.sleep(5)
        assert harness.state is State.LOADED
        harness.skipped = timedelta(hours=10)
        await asyncio.sleep(31)
        assert harness.state is State.UNLOADED


@in_virtual_time
async def test_document_is_the_resource_as_kubectl_shows_it(tmp_path: Path) -> None:
    async with running_controller(tmp_path, schedule=OFFICE_HOURS) as harness:
        await asyncio.sleep(5)
        document = await harness.controller.document()
        given = manifest(schedule=OFFICE_HOURS)
        assert (document["apiVersion"], document["kind"]) == (given["apiVersion"], given["kind"])
        assert document["metadata"] == {"name": "test", "generation": 1}
        assert isinstance(document["spec"], dict)
        assert document["spec"]["idle"] == {"unloadAfter": "15m"}
        assert "pod" not in document["spec"]
        status = Status.model_validate(document["status"], extra="forbid")
        assert status.memory is not None
        assert status.memory.summary == "550Mi"
        assert {condition.type for condition in status.conditions} == {
            "Ready",
            "ModelLoaded",
            "Progressing",
            "Degraded",
            "ScheduleValid",
            "ScalerConflict",
        }


@in_virtual_time
async def test_document_keeps_the_files_metadata(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as harness:
        whole = manifest()
        written = {"name": "test", "namespace": "speech", "labels": {"team": "a"}, "annotations": {"note": "x"}}
        whole["metadata"] = written | {"uid": "1", "resourceVersion": "7"}
        harness.path.write_text(yaml.safe_dump(whole))
        await asyncio.sleep(65)
        assert (await harness.controller.document())["metadata"] == written | {"generation": 1}


@in_virtual_time
async def test_table_is_shown_at_start_and_on_transitions(tmp_path: Path) -> None:
    async with running_controller(
        tmp_path, start=datetime(2026, 3, 2, 6, 59, tzinfo=UTC), schedule=OFFICE_HOURS
    ) as harness:
        assert len(harness.shown) <= 2
        titles, row, message = harness.shown[-1].splitlines()
        assert titles.split() == ["NAME", "STATE", "TARGET", "REASON", "MODEL", "MEMORY", "NEXT", "READY"]
        assert row.split()[:5] == ["test", "Unloaded", "Unloaded", "Schedule", "tiny.en"]
        assert titles.index("NEXT") == row.index("Loaded Mon 07:00 UTC")
        assert message == harness.status.message
        before = len(harness.shown)
        await harness.until("07:00")
        await asyncio.sleep(10)
        assert len(harness.shown) > before
        assert harness.shown[-1].splitlines()[1].split()[:3] == ["test", "Loaded", "Loaded"]
