"""The bytes of stored audio are counted in the database, uploads in progress included."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import event

from testing.jobs import Elapse, job, leased, query_plan, watched
from whisper_inference.errors import TooManyStoredBytes
from whisper_inference.jobs.job import LOCAL, SpooledAudio
from whisper_inference.jobs.quota import (
    ABANDONED_AFTER,
    FIRST_STEP_BYTES,
    LARGEST_STEP_BYTES,
    Quota,
    Reservation,
    Upload,
)
from whisper_inference.jobs.store import JobStore
from whispermodel.key import Key

MIB = 1 << 20
BASE = Key("speech", "base")


def quota_of(store: JobStore, limit_bytes: int = 1000 * MIB, *, owner: str = "") -> Quota:
    return Quota(database=store.database, clock=store.clock, limit_bytes=limit_bytes, owner=owner, retry_after=7)


def upload(name: str, model: Key = LOCAL) -> Upload:
    return Upload(f"audio/{name}", model, "ana")


async def reserve(quota: Quota, name: str, size: int, *, model: Key = LOCAL) -> int:
    return await quota.reserve(upload(name, model), needed=size, wanted=size)


async def test_quota_that_is_exceeded_keeps_what_was_reserved(store: JobStore) -> None:
    quota = quota_of(store, 100)
    await reserve(quota, "a", 60)
    with pytest.raises(TooManyStoredBytes, match="100 bytes") as refused:
        await reserve(quota, "b", 41)
    assert (refused.value.status, refused.value.retry_after) == (429, 7)
    await reserve(quota, "b", 40)
    with pytest.raises(TooManyStoredBytes):
        await reserve(quota, "a", 61)
    assert await quota.stored_bytes() == 100
    await quota.release("audio/a")
    assert await quota.stored_bytes() == 40


async def test_limit_that_changes_holds_for_what_is_reserved_next(store: JobStore) -> None:
    quota = quota_of(store, 100)
    await reserve(quota, "a", 60)
    quota.limit_bytes = 50
    with pytest.raises(TooManyStoredBytes):
        await reserve(quota, "b", 1)


async def test_model_has_a_limit_of_its_own(store: JobStore) -> None:
    quota = quota_of(store, 100)
    quota.model_limits[BASE] = 50
    await reserve(quota, "local", 40)
    await reserve(quota, "base", 50, model=BASE)
    with pytest.raises(TooManyStoredBytes, match="50 bytes"):
        await reserve(quota, "more", 1, model=BASE)
    with pytest.raises(TooManyStoredBytes, match="100 bytes"):
        await reserve(quota, "more", 11)
    assert (await quota.stored_bytes(BASE), await quota.stored_bytes()) == (50, 90)


async def test_bytes_pass_from_the_upload_to_its_job_and_end_with_its_audio(store: JobStore) -> None:
    quota = quota_of(store)
    await reserve(quota, "a", MIB, model=BASE)
    await store.add(replace(job("a"), model=BASE))
    assert (await quota.stored_bytes(), await quota.stored_bytes(BASE), await quota.stored_bytes(LOCAL)) == (
        1000,
        1000,
        0,
    )
    await store.succeed((await leased(store, BASE)).token, 1.0)
    assert await quota.stored_bytes() == 1000
    await store.detach_audio("a")
    assert await quota.stored_bytes() == 0


async def test_upload_of_a_repeated_request_still_counts(store: JobStore) -> None:
    quota = quota_of(store)
    await store.add(job("a", key="k"))
    await reserve(quota, "b", 500)
    await store.add(job("b", key="k"))
    assert await quota.stored_bytes() == 1500, "until the spool deletes the audio"


async def test_steps_of_an_upload_are_few(store: JobStore) -> None:
    commits: list[object] = []
    event.listen(store.database.engine, "commit", commits.append)
    reservation = Reservation(quota_of(store, 100_000 * MIB), upload("a"))
    reservation.begin()
    for size in range(0, FIRST_STEP_BYTES + 1, 1 << 16):
        await reservation.cover(size)
    assert len(commits) == 1, "a small upload costs one commit"
    for size in range(0, 1000 * MIB + 1, 1 << 18):
        await reservation.cover(size)
    assert len(commits) <= 6 + 1000 * MIB // LARGEST_STEP_BYTES + 1


async def test_upload_of_known_size_is_one_step(store: JobStore) -> None:
    commits: list[object] = []
    event.listen(store.database.engine, "commit", commits.append)
    reservation = Reservation(quota_of(store), upload("a"))
    reservation.begin(100 * MIB)
    await reservation.cover(100 * MIB)
    assert len(commits) == 1


async def test_uploads_share_what_is_left_near_the_limit(store: JobStore) -> None:
    quota = quota_of(store, 2 * MIB)
    one, other = Reservation(quota, upload("a")), Reservation(quota, upload("b"))
    for reservation in (one, other):
        reservation.begin()
        await reservation.cover(MIB)
    with pytest.raises(TooManyStoredBytes):
        await one.cover(MIB + 1)


async def test_reservation_that_is_cancelled_anywhere_leaves_nothing(store: JobStore) -> None:
    quota = quota_of(store)

    async def receive(name: str) -> None:
        reservation = Reservation(quota, upload(name))
        try:
            reservation.begin()
            await reservation.cover(10 * MIB)
        finally:
            await reservation.close()

    for turns in range(30):
        receiving = asyncio.create_task(receive(f"a{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait((receiving,))
    assert await quota.stored_bytes() == 0


async def test_start_forgets_the_uploads_of_its_owner_only(store: JobStore) -> None:
    for owner in ("", "other"):
        await reserve(quota_of(store, owner=owner), f"of {owner}", 10)
    await store.add(job("a"))
    await store.recover("it ended")
    assert await store.known_audio() == {"audio/a", "audio/of other"}
    assert await quota_of(store).stored_bytes() == 1010


async def test_uploads_of_an_owner_that_is_gone_are_forgotten_after_a_day(store: JobStore, elapse: Elapse) -> None:
    quota = quota_of(store, owner="gone")
    for name in ("stuck", "growing"):
        await reserve(quota, name, 10)
    await elapse(ABANDONED_AFTER / 2)
    await reserve(quota, "growing", 20)
    await elapse(ABANDONED_AFTER / 2 - timedelta(minutes=1))
    await store.recover("it ended")
    assert await store.known_audio() == {"audio/stuck", "audio/growing"}
    await elapse(timedelta(minutes=2))
    await store.recover("it ended")
    assert await store.known_audio() == {"audio/growing"}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_stored_bytes_are_read_from_the_index_of_held_audio(store: JobStore) -> None:
    asked = watched(store)
    quota = quota_of(store)
    await quota.stored_bytes()
    await quota.stored_bytes(BASE)
    for statement, parameters in tuple(asked):
        steps = await query_plan(store, statement, parameters)
        assert any("jobs USING COVERING INDEX jobs_held" in step for step in steps), steps


async def test_bytes_of_many_models_are_summed(store: JobStore) -> None:
    for number, model in enumerate((BASE, LOCAL, BASE)):
        audio = SpooledAudio(f"audio/{number}", 10**12, "00")
        await store.add(replace(job(f"j{number}"), model=model, audio=audio))
    assert await quota_of(store).stored_bytes(BASE) == 2 * 10**12
