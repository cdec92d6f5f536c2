"""A server with a model file does what the file says: in virtual time, over stand-in processes."""

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

from testing.controller_harness import MONDAY, OFFICE_HOURS, MemoryRecords, Scene, manifest, obeying
from testing.owner_harness import MISSING
from testing.processes_stand_in import LoadScript
from testing.virtual_time import run
from whisper_inference.errors import NotAudio, Superseded
from whisper_inference.model_control import Depth
from whisper_inference.settings import Settings
from whisper_inference.standalone.manifest import ManifestError
from whisper_inference.standalone.record import Record
from whispermodel.spec import State
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


def in_virtual_time(story: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    def test(tmp_path: Path) -> None:
        async def told() -> None:
            vars(asyncio.get_running_loop())["run_in_executor"] = at_once
            async with asyncio.timeout(10_000_000):
                await story(tmp_path)

        run(told)

    test.__name__ = story.__name__
    test.__doc__ = inspect.getdoc(story)
    return test


@in_virtual_time
async def test_before_any_work_nothing_is_loaded(tmp_path: Path) -> None:
    async with obeying(tmp_path, idle=QUARTER_THEN_ZERO) as scene:
        await asyncio.sleep(3600)
        assert (scene.state, scene.status.message) == (State.ZERO, "Zero until work arrives.")
        assert scene.owner_scene.processes.started_loads == 0


@in_virtual_time
async def test_idleness_leads_from_loaded_over_warm_and_cold_to_zero(tmp_path: Path) -> None:
    async with obeying(tmp_path, idle=QUARTER_THEN_ZERO) as scene:
        await scene.served.job(60)
        await asyncio.sleep(14 * 60)
        assert (scene.state, scene.depth) == (State.LOADED, None)
        await asyncio.sleep(2 * 60)
        assert (scene.state, scene.depth) == (State.UNLOADED, Depth.WARM)
        await asyncio.sleep(15 * 60)
        assert (scene.state, scene.depth) == (State.UNLOADED, Depth.COLD)
        await asyncio.sleep(30 * 60)
        assert (scene.state, scene.depth) == (State.ZERO, Depth.COLD)


@in_virtual_time
async def test_work_wakes_it_from_zero(tmp_path: Path) -> None:
    async with obeying(tmp_path, idle=QUARTER_THEN_ZERO) as scene:
        await scene.served.job(1)
        await asyncio.sleep(7200)
        assert scene.state is State.ZERO
        await scene.served.job(1)
        await asyncio.sleep(1)
        assert scene.state is State.LOADED
        assert scene.owner_scene.processes.started_loads == 2


@in_virtual_time
async def test_the_schedule_loads_and_unloads_day_after_day(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        assert (scene.state, scene.status.reason) == (State.LOADING, "Schedule")
        for _ in range(3):
            await scene.until("19:59")
            assert scene.state is State.LOADED
            await scene.until("20:00")
            assert (scene.state, scene.depth) == (State.UNLOADED, Depth.COLD)
            await scene.until("06:59", days=1)
            assert scene.state is State.UNLOADED
            await scene.until("07:00")
            assert scene.status.target is State.LOADED
            await asyncio.sleep(5)
            assert scene.state is State.LOADED


@in_virtual_time
async def test_work_at_night_is_served_and_the_night_goes_on_after_it(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await scene.until("22:00")
        await scene.served.job(60)
        await asyncio.sleep(14 * 60)
        assert (scene.state, scene.status.reason) == (State.LOADED, "Demand")
        await asyncio.sleep(120)
        assert (scene.state, scene.status.reason, scene.depth) == (State.UNLOADED, "Schedule", Depth.COLD)


@in_virtual_time
async def test_a_job_that_runs_when_the_unload_fires_is_finished_first(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await scene.until("19:59")
        job = asyncio.create_task(scene.served.job(600))
        await scene.until("20:05")
        assert scene.state is State.LOADED
        await job
        await asyncio.sleep(1)
        assert scene.state is State.UNLOADED
        assert scene.owner_scene.processes.started_loads == 1


@in_virtual_time
async def test_an_upload_that_is_under_way_when_the_unload_fires_keeps_the_model(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await scene.until("19:59")
        job = asyncio.create_task(scene.served.job(10, upload_seconds=600))
        await scene.until("20:05")
        assert scene.state is State.LOADED
        await job
        assert scene.owner_scene.processes.started_loads == 1


async def refused(scene: Scene, *, after: float) -> None:
    with suppress(NotAudio):
        async with scene.served.owner.expected_work():
            await asyncio.sleep(after)
            raise NotAudio(reason="it is a picture")


@pytest.mark.parametrize("spec", [{"idle": QUARTER_THEN_ZERO}, {"desiredState": "Zero"}], ids=["Auto", "Zero"])
@pytest.mark.parametrize("after", [0.5, 30], ids=["while it loads", "when it has loaded"])
def test_an_upload_that_comes_to_nothing_leaves_it_at_zero(tmp_path: Path, after: float, spec: dict[str, Any]) -> None:
    @in_virtual_time
    async def test_story(tmp_path: Path) -> None:
        async with obeying(tmp_path, **spec) as scene:
            before = scene.status.message
            await refused(scene, after=after)
            await asyncio.sleep(2)
            assert (scene.state, scene.depth) == (State.ZERO, Depth.COLD)
            assert (scene.status.message, scene.status.idle_since) == (before, None)

    test_story(tmp_path)


@in_virtual_time
async def test_uploads_that_come_to_nothing_do_not_prolong_the_idle_time(tmp_path: Path) -> None:
    async with obeying(tmp_path, idle=QUARTER_THEN_ZERO) as scene:
        await scene.served.job(60)
        for _ in range(60):
            await refused(scene, after=1)
            await asyncio.sleep(60)
        assert scene.state is State.ZERO


@in_virtual_time
async def test_a_load_that_fires_during_an_upload_stays_whatever_becomes_of_that(tmp_path: Path) -> None:
    async with obeying(tmp_path, start=datetime(2026, 3, 2, 6, 58, tzinfo=UTC), schedule=OFFICE_HOURS) as scene:
        await refused(scene, after=240)
        await asyncio.sleep(60)
        assert (scene.state, scene.status.reason) == (State.LOADED, "Schedule")
        assert scene.owner_scene.processes.started_loads == 1


@in_virtual_time
async def test_a_load_by_hand_against_an_order_hears_which_one_decides(tmp_path: Path) -> None:
    async with obeying(tmp_path, desiredState="Zero") as scene:
        with pytest.raises(Superseded):
            await scene.by_hand("Loaded")
        assert scene.controller.overruling() == scene.status.message
        assert scene.status.message.startswith("Zero by desiredState since Mon ")
    async with obeying(tmp_path) as scene:
        await scene.by_hand("Unloaded")
        await asyncio.sleep(1)
        assert (scene.status.reason, scene.controller.overruling()) == ("Manual", None)


@in_virtual_time
async def test_an_override_beats_the_schedule_until_it_expires(tmp_path: Path) -> None:
    override = {"state": "Loaded", "until": "2026-03-02T22:00:00+00:00", "reason": "release test"}
    async with obeying(tmp_path, schedule=OFFICE_HOURS, override=override) as scene:
        await scene.until("21:59")
        assert (scene.state, scene.status.reason) == (State.LOADED, "Override")
        await scene.until("22:00")
        assert (scene.state, scene.status.reason) == (State.UNLOADED, "Schedule")


@in_virtual_time
async def test_while_suspended_nothing_is_unloaded_and_work_still_loads(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS, suspend=True) as scene:
        assert (scene.state, scene.status.reason) == (State.ZERO, "Suspended")
        await scene.served.job(1)
        await scene.until("23:00")
        assert scene.state is State.LOADED
        assert scene.condition("Ready").status == "True"


@in_virtual_time
async def test_a_scheduled_load_starts_early_by_what_the_last_loads_took(tmp_path: Path) -> None:
    records = MemoryRecords()
    records.text = Record(status=Status(recent_start_seconds=(300.0, 240.0))).model_dump_json()
    slow, fast = LoadScript(imports=300), LoadScript()
    schedule = {**OFFICE_HOURS, "leadTime": "Auto"}
    async with obeying(tmp_path, records=records, loads=(fast, slow), schedule=schedule) as scene:
        await scene.until("06:54", days=1)
        assert scene.state is State.UNLOADED
        await scene.until("06:56")
        assert scene.state is State.LOADING
        await scene.until("07:01")
        assert scene.state is State.LOADED
        assert scene.status.recent_start_seconds[1:] == (0.0, 300.0, 240.0)


@in_virtual_time
async def test_refuse_keeps_new_work_out_until_the_next_load_and_finishes_what_was_accepted(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS, demandPolicy="Refuse") as scene:
        await scene.until("19:59")
        assert scene.controller.refusal() is None
        job = asyncio.create_task(scene.served.job(600))
        await scene.until("20:05")
        refusal = scene.controller.refusal()
        assert refusal is not None
        assert refusal.retry_after == pytest.approx(timedelta(hours=10, minutes=55).total_seconds(), abs=5)
        assert "accepted from Tue 2026-03-03 07:00 UTC" in str(refusal)
        assert scene.condition("Ready").reason == "Refused"
        await job
        await scene.until("07:00", days=1)
        assert scene.controller.refusal() is None


@in_virtual_time
async def test_refuse_without_a_known_end_says_so(tmp_path: Path) -> None:
    async with obeying(tmp_path, desiredState="Zero", demandPolicy="Refuse") as scene:
        refusal = scene.controller.refusal()
        assert refusal is not None
        assert (refusal.code, refusal.retry_after) == ("refused-for-now", 86_400)


@in_virtual_time
async def test_an_unload_by_hand_holds_until_the_next_fire(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await scene.until("13:00")
        await scene.by_hand("Unloaded")
        await scene.until("19:00")
        assert (scene.state, scene.status.reason) == (State.UNLOADED, "Manual")
        assert scene.status.manual is not None
        await scene.until("07:00", days=1)
        await asyncio.sleep(5)
        assert (scene.state, scene.status.reason, scene.status.manual) == (State.LOADED, "Schedule", None)


@in_virtual_time
async def test_an_order_by_hand_is_remembered_under_what_beats_it(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await scene.until("13:00")
        await scene.by_hand("Unloaded")
        scene.write(schedule=OFFICE_HOURS, override={"state": "Loaded", "until": "2026-03-02T15:00:00Z"})
        await scene.until("14:00")
        assert (scene.state, scene.status.reason) == (State.LOADED, "Override")
        assert scene.status.manual is not None
        await scene.until("16:00")
        assert (scene.state, scene.status.reason) == (State.UNLOADED, "Manual")


@in_virtual_time
async def test_a_load_by_hand_holds_without_work(tmp_path: Path) -> None:
    async with obeying(tmp_path, idle={"unloadAfter": "1m"}) as scene:
        await scene.by_hand("Loaded")
        await asyncio.sleep(86_400)
        assert (scene.state, scene.status.reason) == (State.LOADED, "Manual")


@in_virtual_time
async def test_an_order_by_hand_survives_a_restart(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with obeying(tmp_path, records=records, schedule=OFFICE_HOURS) as scene:
        await scene.until("13:00")
        await scene.by_hand("Unloaded")
    async with obeying(tmp_path, records=records, start=MONDAY + timedelta(hours=2), schedule=OFFICE_HOURS) as scene:
        assert scene.controller.manual is not None
        await scene.until("19:00")
        assert (scene.state, scene.status.reason) == (State.UNLOADED, "Manual")
        assert scene.owner_scene.processes.started_loads == 0


@in_virtual_time
async def test_a_fire_that_an_outage_covered_is_caught_up_at_the_start(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with obeying(tmp_path, records=records, schedule=OFFICE_HOURS) as scene:
        await scene.until("20:30")
        assert scene.state is State.UNLOADED
    tuesday = MONDAY + timedelta(days=1, hours=-3)
    async with obeying(tmp_path, records=records, start=tuesday, schedule=OFFICE_HOURS) as scene:
        await asyncio.sleep(5)
        assert (scene.state, scene.status.reason) == (State.LOADED, "Schedule")
        assert scene.status.message.startswith("Loaded by schedule 'morning' since Tue 07:00 UTC")


@in_virtual_time
async def test_an_order_by_hand_that_a_fire_has_overtaken_during_an_outage_counts_no_more(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with obeying(tmp_path, records=records, schedule=OFFICE_HOURS) as scene:
        await scene.by_hand("Unloaded")
    wednesday = MONDAY + timedelta(days=2)
    async with obeying(tmp_path, records=records, start=wednesday, schedule=OFFICE_HOURS) as scene:
        await asyncio.sleep(5)
        assert (scene.state, scene.status.reason) == (State.LOADED, "Schedule")


@in_virtual_time
async def test_the_idle_time_goes_on_over_a_restart(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with obeying(tmp_path, records=records, idle=QUARTER_THEN_ZERO) as scene:
        await scene.served.job(1)
        await asyncio.sleep(60)
        ended = scene.status.idle_since
    async with obeying(
        tmp_path, records=records, start=MONDAY + timedelta(minutes=40), idle=QUARTER_THEN_ZERO
    ) as scene:
        assert (scene.state, scene.status.idle_since) == (State.UNLOADED, ended)
        await asyncio.sleep(30 * 60)
        assert scene.state is State.ZERO


@in_virtual_time
async def test_jobs_that_were_found_at_the_start_load_the_model(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS, start=MONDAY + timedelta(hours=10)) as scene:
        scene.served.waiting = 1
        await scene.served.serve(1)
        await asyncio.sleep(1)
        assert (scene.state, scene.status.reason) == (State.LOADED, "Demand")


@in_virtual_time
async def test_a_load_that_fails_is_tried_again_and_told(tmp_path: Path) -> None:
    loads = (LoadScript(failure=MISSING, loading=1.0),) * 2
    async with obeying(tmp_path, loads=loads, desiredState="Loaded") as scene:
        await asyncio.sleep(3.5)
        assert scene.state is State.FAILED
        assert scene.condition("Ready").reason == scene.condition("Degraded").reason == "LoadFailed"
        assert "/nowhere" in scene.condition("Degraded").message
        met = set[State | None]()
        async with asyncio.timeout(30):
            while scene.status.state is not State.LOADED:
                # Not well again while it is tried: who waits for Ready would find a model that has never loaded.
                assert (scene.condition("Ready").status, scene.condition("Degraded").status) == ("False", "True")
                met.add(scene.status.state)
                await asyncio.sleep(0.05)
        assert met == {State.FAILED, State.LOADING}
        assert scene.condition("Degraded").status == "False"
        failure = scene.status.last_failure
        assert failure is not None
        assert (failure.reason, failure.count) == ("LoadFailed", 2)


@in_virtual_time
async def test_a_load_that_failed_and_that_nobody_wants_any_more_is_at_rest(tmp_path: Path) -> None:
    async with obeying(tmp_path, loads=(LoadScript(failure=MISSING),) * 60, desiredState="Loaded") as scene:
        await asyncio.sleep(3)
        scene.write(desiredState="Unloaded")
        await asyncio.sleep(65)
        assert (scene.state, scene.depth) == (State.FAILED, Depth.COLD)
        assert scene.condition("Progressing").reason == "AtRest"
        assert scene.condition("Degraded").reason == "LoadFailed"


@in_virtual_time
async def test_what_a_failed_load_left_behind_goes_when_nobody_wants_the_model(tmp_path: Path) -> None:
    async with obeying(tmp_path, loads=(LoadScript(failure=MISSING),) * 60) as scene:
        async with scene.served.owner.expected_work():
            await asyncio.sleep(3)
        await asyncio.sleep(14 * 60)
        assert (scene.state, scene.depth) == (State.FAILED, Depth.WARM)
        await asyncio.sleep(2 * 60)
        assert (scene.state, scene.depth) == (State.FAILED, Depth.COLD)


@in_virtual_time
async def test_a_bad_edit_keeps_the_last_good_version_and_says_why(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        scene.write(schedule=OFFICE_HOURS, idle={"unloadAfter": "soon"})
        await asyncio.sleep(25)
        degraded = scene.condition("Degraded")
        assert (degraded.status, degraded.reason) == ("True", "InvalidModelFile")
        assert "spec.idle.unloadAfter: 'soon' is not a duration" in degraded.message
        assert "last good version is obeyed" in degraded.message
        await scene.until("20:00")
        assert scene.state is State.UNLOADED
        scene.write(schedule=OFFICE_HOURS)
        await asyncio.sleep(25)
        assert scene.condition("Degraded").status == "False"


@in_virtual_time
async def test_an_edit_to_a_zone_that_does_not_exist_is_told_by_schedule_valid(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        scene.write(schedule={**OFFICE_HOURS, "timeZone": "Europe/Atlantis"})
        await asyncio.sleep(25)
        condition = scene.condition("ScheduleValid")
        assert (condition.status, condition.reason) == ("False", "InvalidSchedule")
        assert "Europe/Atlantis" in condition.message
        assert scene.status.reason == "Schedule"


@in_virtual_time
async def test_a_good_edit_is_obeyed_at_once_and_counted(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await asyncio.sleep(5)
        assert (scene.state, scene.status.observed_generation) == (State.LOADED, 1)
        scene.write(desiredState="Zero")
        await asyncio.sleep(25)
        assert (scene.state, scene.status.observed_generation) == (State.ZERO, 2)
        assert scene.status.spec_since == pytest.approx(scene.now(), abs=timedelta(seconds=30))


@in_virtual_time
async def test_an_edit_that_fails_unforeseen_is_logged_and_the_file_is_followed_on(tmp_path: Path) -> None:
    def fail(settings: Settings) -> None:
        raise OSError("unforeseen")

    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        configure, scene.served.configure = scene.served.configure, fail
        with structlog.testing.capture_logs() as logs:
            scene.write(desiredState="Unloaded")
            await asyncio.sleep(25)
        assert [line["log_level"] for line in logs if line["event"] == "model.file_not_followed"] == ["error"]
        scene.served.configure = configure
        scene.write(desiredState="Zero")
        await asyncio.sleep(25)
        assert (scene.state, scene.status.target) == (State.ZERO, State.ZERO)


@in_virtual_time
async def test_the_same_file_after_a_restart_is_the_same_version(tmp_path: Path) -> None:
    records = MemoryRecords()
    async with obeying(tmp_path, records=records) as scene:
        since = scene.status.spec_since
    async with obeying(tmp_path, records=records, start=MONDAY + timedelta(days=1)) as scene:
        assert (scene.status.observed_generation, scene.status.spec_since) == (1, since)
    async with obeying(tmp_path, records=records, start=MONDAY + timedelta(days=2), suspend=True) as scene:
        assert scene.status.observed_generation == 2


@in_virtual_time
async def test_another_model_takes_over_after_the_running_job(tmp_path: Path) -> None:
    async with obeying(tmp_path) as scene:
        job = asyncio.create_task(scene.served.job(600))
        await asyncio.sleep(60)
        scene.write(size="base.en")
        await asyncio.sleep(25)
        assert scene.state is State.LOADED
        assert scene.condition("Progressing").reason == "ModelChanging"
        assert scene.served.configured[-1].model == "base.en"
        await job
        await asyncio.sleep(5)
        assert not scene.served.owner.holds_former_model
        assert scene.owner_scene.processes.started_loads == 2
        assert scene.state is State.LOADED


@in_virtual_time
async def test_a_load_by_hand_does_not_keep_the_former_model(tmp_path: Path) -> None:
    async with obeying(tmp_path) as scene:
        job = asyncio.create_task(scene.served.job(600))
        await asyncio.sleep(60)
        scene.write(size="base.en")
        await asyncio.sleep(25)
        await scene.by_hand("Loaded")
        await job
        await asyncio.sleep(5)
        assert not scene.served.owner.holds_former_model
        assert scene.state is State.LOADED


@in_virtual_time
async def test_another_model_is_tried_at_once_although_the_former_one_failed(tmp_path: Path) -> None:
    loads = (LoadScript(failure=MISSING),) * 7
    async with obeying(tmp_path, loads=loads, desiredState="Loaded") as scene:
        await asyncio.sleep(70)
        assert scene.state is State.FAILED
        scene.write(size="base.en", desiredState="Loaded")
        await asyncio.sleep(25)
        assert scene.state is State.LOADED


@in_virtual_time
async def test_at_rest_nothing_is_looked_at_or_saved(tmp_path: Path) -> None:
    async with obeying(tmp_path) as scene:
        await asyncio.sleep(1)
        looks, saves, shown = scene.served.looks, scene.records.saves, len(scene.shown)
        await asyncio.sleep(86_400)
        assert (scene.served.looks, scene.records.saves, len(scene.shown)) == (looks, saves, shown)


@in_virtual_time
async def test_a_burst_of_requests_is_one_change(tmp_path: Path) -> None:
    async with obeying(tmp_path, desiredState="Loaded") as scene:
        await asyncio.sleep(5)
        looks = scene.served.looks
        for _ in range(500):
            await scene.served.job(0.01)
        assert scene.served.looks - looks < 500


@in_virtual_time
async def test_a_fire_that_a_sleeping_machine_missed_is_made_up_for_within_half_a_minute(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await asyncio.sleep(5)
        assert scene.state is State.LOADED
        scene.skipped = timedelta(hours=10)
        await asyncio.sleep(31)
        assert scene.state is State.UNLOADED


@in_virtual_time
async def test_the_document_is_the_resource_as_kubectl_would_show_it(tmp_path: Path) -> None:
    async with obeying(tmp_path, schedule=OFFICE_HOURS) as scene:
        await asyncio.sleep(5)
        document = await scene.controller.document()
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
async def test_the_document_keeps_what_people_write_of_its_metadata(tmp_path: Path) -> None:
    async with obeying(tmp_path) as scene:
        whole = manifest()
        written = {"name": "test", "namespace": "speech", "labels": {"team": "a"}, "annotations": {"note": "x"}}
        whole["metadata"] = written | {"uid": "1", "resourceVersion": "7"}
        scene.path.write_text(yaml.safe_dump(whole))
        await asyncio.sleep(65)
        assert (await scene.controller.document())["metadata"] == written | {"generation": 1}


@in_virtual_time
async def test_the_table_is_shown_at_the_start_and_at_each_transition(tmp_path: Path) -> None:
    async with obeying(tmp_path, start=datetime(2026, 3, 2, 6, 59, tzinfo=UTC), schedule=OFFICE_HOURS) as scene:
        assert len(scene.shown) <= 2
        titles, row, message = scene.shown[-1].splitlines()
        assert titles.split() == ["NAME", "STATE", "TARGET", "REASON", "MODEL", "MEMORY", "NEXT", "READY"]
        assert row.split()[:5] == ["test", "Unloaded", "Unloaded", "Schedule", "tiny.en"]
        assert titles.index("NEXT") == row.index("Loaded Mon 07:00 UTC")
        assert message == scene.status.message
        before = len(scene.shown)
        await scene.until("07:00")
        await asyncio.sleep(10)
        assert len(scene.shown) > before
        assert scene.shown[-1].splitlines()[1].split()[:3] == ["test", "Loaded", "Loaded"]
