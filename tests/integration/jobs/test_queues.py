"""Each model has its own queue; the job that is due first runs first."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from json import dumps

import pytest

from testing.jobs import START, Clock, job, leased, query_plan, watched
from whisper_inference import errors
from whisper_inference.jobs.job import BACKGROUND_DELAY, LOCAL, Backlog, Cause, Job, Status
from whisper_inference.jobs.store import JobStore
from whispermodel.key import Key

BASE = Key("speech", "base")
TURBO = Key("speech", "turbo")
LOAD_FAILED = errors.LoadFailed(cause="no GPU")


def of(model: Key, name: str) -> Job:
    return replace(job(name), model=model)


def waiting(name: str, *, after: timedelta = timedelta()) -> Job:
    return replace(job(name), synchronous=True, created_at=START + after)


async def lease_all(store: JobStore, model: Key = LOCAL) -> list[str]:
    return [(await leased(store, model)).job.id for _ in range((await store.counts(model))[Status.QUEUED])]


async def test_each_model_has_its_own_queue(store: JobStore) -> None:
    for model, name in ((BASE, "b1"), (TURBO, "t1"), (BASE, "b2"), (LOCAL, "l1")):
        await store.add(of(model, name))
    assert await lease_all(store, TURBO) == ["t1"]
    assert await lease_all(store, BASE) == ["b1", "b2"]
    assert await store.lease(BASE) is None
    assert (await leased(store)).job == await store.get("l1")
    assert (await store.get("b1")).model == BASE


async def test_client_that_waits_goes_before_background_jobs(store: JobStore) -> None:
    for one in (
        job("background"),
        waiting("first", after=timedelta(minutes=1)),
        waiting("second", after=BACKGROUND_DELAY),
    ):
        await store.add(one)
    assert await lease_all(store) == ["first", "background", "second"]


async def test_background_job_is_not_overtaken_by_a_job_accepted_over_five_minutes_later(store: JobStore) -> None:
    await store.add(job("background"))
    await store.add(waiting("too late", after=timedelta(minutes=5, microseconds=1)))
    await store.add(waiting("in time", after=timedelta(minutes=5, microseconds=-1)))
    assert await lease_all(store) == ["in time", "background", "too late"]


async def test_job_queued_again_keeps_its_place(store: JobStore) -> None:
    for name in "abc":
        await store.add(job(name))
    await store.release((await leased(store)).token)
    assert await lease_all(store) == ["a", "b", "c"]


async def test_job_accepted_before_the_clock_stepped_back_is_not_overtaken_for_longer(
    store: JobStore, clock: Clock
) -> None:
    ahead = START + timedelta(days=1)
    await store.add(replace(job("accepted before"), created_at=ahead))
    await store.add(replace(job("waited before"), created_at=ahead, synchronous=True))
    await store.sweep(timedelta(days=7))
    await store.add(waiting("first after"))
    await store.add(waiting("too late", after=timedelta(minutes=5, microseconds=1)))
    assert await lease_all(store) == ["first after", "accepted before", "waited before", "too late"]


async def test_position_counts_the_jobs_that_are_due_before(store: JobStore) -> None:
    await store.add(of(TURBO, "other model's"))
    for one in (job("a"), job("b"), waiting("first")):
        await store.add(one)
    assert [one and one.jobs for one in [await store.ahead(name) for name in ("first", "a", "b", "other model's")]] == [
        0,
        1,
        2,
        0,
    ]
    await store.lease(LOCAL)
    assert [one and one.jobs for one in [await store.ahead(name) for name in ("first", "a", "b", "unknown")]] == [
        None,
        0,
        1,
        None,
    ]


async def test_waiting_models_are_those_with_queued_jobs(store: JobStore) -> None:
    assert await store.waiting_models() == ()
    for model, name in ((TURBO, "t1"), (BASE, "b1"), (BASE, "b2"), (Key("a", "x"), "x")):
        await store.add(of(model, name))
    await store.cancel("x")
    await store.lease(BASE)
    assert await store.waiting_models() == (BASE, TURBO)


async def test_counts_are_of_one_model_or_of_all(store: JobStore) -> None:
    for model, name in ((TURBO, "t1"), (BASE, "b1"), (BASE, "b2")):
        await store.add(of(model, name))
    await store.lease(BASE)
    nothing = dict.fromkeys(Status, 0)
    assert await store.counts(BASE) == nothing | {Status.QUEUED: 1, Status.RUNNING: 1}
    assert await store.counts() == nothing | {Status.QUEUED: 2, Status.RUNNING: 1}
    assert await store.counts(LOCAL) == nothing


async def test_queued_audio_sums_the_lengths_that_are_known(store: JobStore) -> None:
    assert await store.queued_audio(BASE) == Backlog(0, 0.0)
    for number, seconds in enumerate((1.5, None, 60.0)):
        await store.add(replace(of(BASE, f"b{number}"), audio_seconds=seconds))
    await store.add(replace(of(TURBO, "t"), audio_seconds=7.0))
    assert await store.queued_audio(BASE) == Backlog(jobs=3, audio_seconds=61.5)


async def test_failed_load_fails_the_clients_of_its_model_only(store: JobStore) -> None:
    for model, name in ((BASE, "b"), (TURBO, "t")):
        await store.add(replace(of(model, name), synchronous=True))
    assert await store.fail_waiting_clients(BASE, LOAD_FAILED) == ("b",)
    assert (await store.get("t")).status is Status.QUEUED


async def test_cause_of_waiting_is_noted_on_its_model_only(store: JobStore) -> None:
    await store.add(of(BASE, "b"))
    await store.add(of(TURBO, "t"))
    await store.note_waiting(BASE, Cause.of(LOAD_FAILED))
    assert (await store.get("b")).waiting_for == Cause.of(LOAD_FAILED)
    assert (await store.get("t")).waiting_for is None


async def test_same_key_for_another_model_is_a_conflict(store: JobStore) -> None:
    await store.add(replace(job("a", key="k"), model=BASE))
    with pytest.raises(errors.IdempotencyConflict, match="'a'"):
        await store.add(replace(job("b", key="k"), model=TURBO))


def test_fingerprint_without_a_whispermodel_is_that_of_the_first_release() -> None:
    fields = {
        "language": None,
        "task": "transcribe",
        "word_timestamps": False,
        "initial_prompt": None,
        "temperature": None,
    }
    stored = sha256(dumps([fields, "00"], sort_keys=True).encode()).hexdigest()
    assert job("a").fingerprint == stored
    assert of(BASE, "a").fingerprint not in (stored, of(TURBO, "a").fingerprint)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_next_job_is_found_in_the_index_of_queued_rows(store: JobStore) -> None:
    asked = watched(store)
    await store.lease(BASE)
    steps = await query_plan(store, *asked[0])
    assert any("USING INDEX jobs_due (namespace=? AND whispermodel=?)" in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps
