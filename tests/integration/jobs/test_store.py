"""The job store: accepted jobs persist, and only the current attempt writes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, event

from testing.jobs import Clock, job, leased, query_plan, section, watched
from whisper_inference import errors
from whisper_inference.jobs.job import (
    LOCAL,
    MAX_ATTEMPTS,
    Added,
    Cause,
    Existing,
    Job,
    StaleAttempt,
    Status,
    StoredAudio,
)
from whisper_inference.jobs.store import JobStore
from whisper_inference.transcripts.transcript import Options, Resume


def owned(name: str, *, by: str) -> Job:
    return replace(job(name), principal=by)


async def test_stored_job_reads_back_equal(store: JobStore) -> None:
    options = Options(language="pt", task="translate", word_timestamps=True, initial_prompt="olá\n", temperature=0.2)
    stored = replace(job("a", key="k", options=options), synchronous=True, audio_seconds=12.5)
    assert await store.add(stored) == Added(stored)
    assert await store.get("a") == stored


async def test_jobs_that_are_due_together_are_leased_in_the_order_of_their_acceptance(store: JobStore) -> None:
    for name in "cab":
        await store.add(job(name))
    assert [(await leased(store)).job.id for _ in "cab"] == ["c", "a", "b"]


async def test_jobs_that_are_leased_at_once_are_leased_once(store: JobStore) -> None:
    for name in "abc":
        await store.add(job(name))
    leases = [lease for lease in await asyncio.gather(*(store.lease(LOCAL) for _ in range(5))) if lease]
    assert sorted(lease.job.id for lease in leases) == ["a", "b", "c"]
    assert len({lease.token for lease in leases}) == 3


async def test_attempt_resumes_after_the_last_stored_section(store: JobStore) -> None:
    await store.add(job("a"))
    first = await leased(store)
    await store.append_section(first.token, section(" One.", end=16_000))
    await store.append_section(first.token, section(" Two.", end=32_000, first_id=1))
    assert await store.retry(first.token, "killed") is Status.QUEUED
    second = await leased(store)
    assert first.resume is None
    assert second.resume == Resume(next_start_sample=32_000, language="pt", previous_text=" Two.", next_segment_id=2)
    assert second.job.attempts == 2


async def test_transcript_joins_the_stored_sections(store: JobStore, clock: Clock) -> None:
    await store.add(job("a"))
    lease = await leased(store)
    parts = [section(" One.", end=16_000), section(" Two.", end=32_000, first_id=1)]
    for part in parts:
        await store.append_section(lease.token, part)
    assert await store.text("a") == " One. Two."
    with pytest.raises(errors.ResultNotReady):
        await store.transcript("a")
    clock.forward(seconds=5)
    await store.succeed(lease.token, 2.0)
    result = await store.transcript("a")
    assert (result.text, result.language, result.duration) == (" One. Two.", "pt", 2.0)
    assert result.segments == parts[0].segments + parts[1].segments
    done = await store.get("a")
    assert (done.status, done.progress, done.finished_at) == (Status.SUCCEEDED, 1.0, clock.now)


async def test_stale_attempt_cannot_write(store: JobStore) -> None:
    await store.add(job("a"))
    old = await leased(store)
    await store.release(old.token)
    current = await leased(store)
    writes = (
        lambda: store.append_section(old.token, section("x", end=1)),
        lambda: store.set_progress(old.token, 0.9),
        lambda: store.succeed(old.token, 1.0),
        lambda: store.fail(old.token, errors.NotAudio(reason="x")),
        lambda: store.retry(old.token, "x"),
        lambda: store.release(old.token),
    )
    for write in writes:
        with pytest.raises(StaleAttempt):
            await write()
    assert await store.text("a") == ""
    await store.succeed(current.token, 1.0)


async def test_released_attempt_does_not_count(store: JobStore) -> None:
    await store.add(job("a"))
    for _ in range(2 * MAX_ATTEMPTS):
        lease = await leased(store)
        assert lease.job.attempts == 1
        await store.release(lease.token)


async def test_third_lost_attempt_fails_the_job(store: JobStore) -> None:
    await store.add(job("a"))
    seen = [await store.retry((await leased(store)).token, "out of memory") for _ in range(MAX_ATTEMPTS)]
    assert seen == [Status.QUEUED, Status.QUEUED, Status.FAILED]
    with pytest.raises(errors.WorkerLost, match="out of memory"):
        await store.transcript("a")
    assert await store.lease(LOCAL) is None


async def test_recovery_requeues_running_jobs_and_fails_exhausted_ones(store: JobStore) -> None:
    await store.add(job("a"))
    for _ in range(MAX_ATTEMPTS - 1):
        await store.retry((await leased(store)).token, "killed")
    assert (await leased(store)).job.attempts == MAX_ATTEMPTS
    await store.add(job("b"))
    stale = await leased(store)
    recovered = await store.recover("the server ended")
    assert (recovered.requeued, recovered.failed) == (("b",), ("a",))
    assert (await store.get("a")).error == Cause("worker-lost", {"cause": "the server ended", "attempts": MAX_ATTEMPTS})
    with pytest.raises(StaleAttempt):
        await store.succeed(stale.token, 1.0)
    assert (await leased(store)).job.attempts == 2


async def test_recovery_releases_the_audio_of_final_jobs(store: JobStore) -> None:
    for name in ("given up", "succeeded", "goes on"):
        await store.add(job(name))
    for _ in range(MAX_ATTEMPTS - 1):
        await store.retry((await leased(store)).token, "killed")
    await leased(store)
    await store.succeed((await leased(store)).token, 1.0)
    await store.recover("the server ended")
    assert [audio.key for audio in await store.stored_audio()] == ["audio/goes on"]


@pytest.mark.parametrize("running", [False, True])
async def test_cancelled_job_stays_cancelled(store: JobStore, running: bool) -> None:
    await store.add(job("a"))
    lease = await leased(store) if running else None
    assert (await store.cancel("a")).status is Status.CANCELLED
    assert (await store.cancel("a")).status is Status.CANCELLED
    assert await store.lease(LOCAL) is None
    with pytest.raises(errors.JobCancelled):
        await store.transcript("a")
    if lease is not None:
        with pytest.raises(StaleAttempt):
            await store.succeed(lease.token, 1.0)


async def test_unknown_job_is_named_in_the_error(store: JobStore) -> None:
    for ask in (store.get, store.cancel, store.transcript):
        with pytest.raises(errors.JobNotFound, match="'nope'"):
            await ask("nope")


async def test_same_key_and_request_is_one_job(store: JobStore) -> None:
    outcomes = await asyncio.gather(*(store.add(job(f"j{number}", key="k")) for number in range(10)))
    added = [outcome for outcome in outcomes if isinstance(outcome, Added)]
    assert len(added) == 1
    assert {outcome.job.id for outcome in outcomes} == {added[0].job.id}
    assert (await store.counts())[Status.QUEUED] == 1


async def test_same_key_with_another_request_is_a_conflict(store: JobStore) -> None:
    await store.add(job("a", key="k"))
    for other in (job("b", key="k", sha256="11"), job("b", key="k", options=Options(language="de"))):
        with pytest.raises(errors.IdempotencyConflict, match="'a'"):
            await store.add(other)


async def test_idempotency_keys_are_per_principal(store: JobStore) -> None:
    await store.add(job("a", key="k"))
    assert isinstance(await store.add(replace(job("b", key="k"), principal="rui")), Added)
    assert isinstance(await store.add(job("c")), Added)
    assert isinstance(await store.add(job("d")), Added)
    assert isinstance(await store.add(job("e", key="k")), Existing)


async def test_pages_are_stable_while_jobs_arrive(store: JobStore) -> None:
    for name in "abcde":
        await store.add(job(name))
    first = await store.page(limit=2)
    await store.add(job("f"))
    second = await store.page(cursor=first.next_cursor, limit=2)
    third = await store.page(cursor=second.next_cursor, limit=2)
    assert [[one.id for one in page.jobs] for page in (first, second, third)] == [["e", "d"], ["c", "b"], ["a"]]
    assert third.next_cursor is None
    await store.cancel("c")
    assert [one.id for one in (await store.page(status=Status.CANCELLED)).jobs] == ["c"]


async def test_other_owners_job_is_not_found(store: JobStore) -> None:
    await store.add(owned("a", by="ana"))
    assert (await store.get("a", owner="ana")).id == (await store.get("a")).id == "a"
    for owner in ("rui", "Ana", "", "an%"):
        with pytest.raises(errors.JobNotFound, match="'a'"):
            await store.get("a", owner=owner)


async def test_pages_list_only_the_owners_jobs(store: JobStore) -> None:
    for number, owner in enumerate(("rui", "ana", "ana", "rui", "ana", "rui")):
        await store.add(owned(f"{owner} {number}", by=owner))
    await store.cancel("ana 2")
    await store.cancel("rui 3")
    first = await store.page(owner="ana", limit=2)
    assert [one.id for one in first.jobs] == ["ana 4", "ana 2"]
    last = await store.page(owner="ana", limit=2, cursor=first.next_cursor)
    assert ([one.id for one in last.jobs], last.next_cursor) == (["ana 1"], None)
    assert [one.id for one in (await store.page(owner="ana", status=Status.CANCELLED)).jobs] == ["ana 2"]
    assert (await store.page(owner="ana", status=Status.RUNNING)).jobs == ()
    assert (await store.page(owner="eva")).jobs == ()
    assert len((await store.page()).jobs) == 6


async def test_other_owners_cursor_shows_none_of_their_jobs(store: JobStore) -> None:
    for number, owner in enumerate(("rui", "ana", "rui", "ana")):
        await store.add(owned(f"{owner} {number}", by=owner))
    cursor = (await store.page(owner="ana", limit=1)).next_cursor
    assert cursor is not None
    assert [one.id for one in (await store.page(owner="rui", cursor=cursor)).jobs] == ["rui 2", "rui 0"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("cursor", [None, "9"])
async def test_owners_page_is_read_from_an_index(store: JobStore, cursor: str | None) -> None:
    asked = watched(store)
    await store.page(owner="ana", cursor=cursor)
    [step] = await query_plan(store, *asked[0])
    assert "USING INDEX jobs_by_principal (principal=?" in step


@pytest.mark.parametrize("cursor", ["", "x", "-1", "9" * 400, "٣"])
async def test_invalid_cursor_is_rejected_or_harmless(store: JobStore, cursor: str) -> None:
    with contextlib.suppress(errors.JobNotFound):
        assert (await store.page(cursor=cursor)).jobs == ()


async def test_retention_deletes_final_jobs_and_returns_their_audio(store: JobStore, clock: Clock) -> None:
    day = timedelta(days=1)
    for name in "abc":
        await store.add(job(name))
    lease = await leased(store)
    await store.append_section(lease.token, section("x", end=1))
    await store.succeed(lease.token, 1.0)
    ended = clock.now
    clock.forward(hours=1)
    await store.cancel("b")
    clock.now = ended + day
    assert await store.sweep(day) == (StoredAudio("audio/a", 1000),)
    assert await store.segments("a") == ()
    clock.forward(days=30)
    assert await store.sweep(day) == (StoredAudio("audio/b", 1000),)
    assert [one.id for one in (await store.page()).jobs] == ["c"]


async def test_audio_is_held_until_detached(store: JobStore, clock: Clock) -> None:
    await store.add(job("a"))
    await store.add(job("b"))
    assert sum(audio.size for audio in await store.stored_audio()) == 2000
    await store.detach_audio("a")
    assert await store.final_audio("a") is None
    await store.cancel("a")
    assert await store.final_audio("a") == StoredAudio("audio/a", 1000)
    await store.detach_audio("a")
    assert await store.final_audio("a") is None
    assert await store.stored_audio() == (StoredAudio("audio/b", 1000),)
    clock.forward(days=2)
    assert await store.sweep(timedelta(days=1)) == ()


async def test_queued_jobs_show_why_they_wait(store: JobStore) -> None:
    await store.add(job("a"))
    await store.add(job("b"))
    cause = Cause.of(errors.LoadFailed(cause="no such file"))
    await store.note_waiting(LOCAL, cause)
    await store.lease(LOCAL)
    assert (await store.get("a")).waiting_for is None
    assert (await store.get("b")).waiting_for == cause
    await store.note_waiting(LOCAL, None)
    assert (await store.get("b")).waiting_for is None
    await store.add(replace(job("c"), synchronous=True))
    await store.note_waiting(LOCAL, cause)
    assert (await store.get("c")).waiting_for is None, "its client waits and has not been answered"


async def test_failed_load_frees_the_idempotency_key(store: JobStore) -> None:
    await store.add(replace(job("a", key="k"), synchronous=True))
    assert await store.fail_waiting_clients(LOCAL, errors.LoadFailed(cause="no GPU")) == ("a",)
    assert isinstance(await store.add(replace(job("b", key="k"), synchronous=True)), Added)


async def test_failed_load_spares_a_detached_job(store: JobStore) -> None:
    for name in ("waits", "waited too long"):
        await store.add(replace(job(name), synchronous=True))
    await store.detach_client("waited too long")
    assert await store.fail_waiting_clients(LOCAL, errors.LoadFailed(cause="no GPU")) == ("waits",)
    await store.add(replace(job("its server ended"), synchronous=True))
    await store.recover("the server ended")
    assert await store.fail_waiting_clients(LOCAL, errors.LoadFailed(cause="no GPU")) == ()


async def test_failed_load_spares_a_job_with_an_asynchronous_repeat(store: JobStore) -> None:
    await store.add(replace(job("a", key="k"), synchronous=True))
    assert isinstance(await store.add(replace(job("b", key="k"), synchronous=True)), Existing)
    found = await store.add(job("c", key="k"))
    assert (found.job.id, found.job.synchronous) == ("a", False)
    assert await store.fail_waiting_clients(LOCAL, errors.LoadFailed(cause="no GPU")) == ()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_full_database_raises_disk_full_and_changes_nothing(store: JobStore) -> None:
    await store.add(job("a"))
    lease = await leased(store)

    def fill(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    await store.database.transact(fill)
    with pytest.raises(errors.DiskFull):
        await store.append_section(lease.token, section("long " * 20_000, end=16_000))
    assert (await store.get("a")).progress == 0.0
    assert await store.text("a") == ""
    await store.set_progress(lease.token, 0.25)


async def test_cancelled_callers_leave_the_store_usable(store: JobStore) -> None:
    for number in range(60):
        adding = asyncio.ensure_future(store.add(job(f"j{number}")))
        for _ in range(number):
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.wait((adding,))
    assert isinstance(await store.add(job("last")), Added)
    # What had begun when its caller was cancelled may be committed later.
    stored, counted = set[str](), -1
    for _ in range(200):
        stored = {one.id for one in (await store.page(limit=100)).jobs}
        counted = sum((await store.counts()).values())
        if counted == len(stored):
            break
        await asyncio.sleep(0.05)
    assert (counted, "last" in stored) == (len(stored), True), stored


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_cancelled_readers_keep_the_connection(store: JobStore) -> None:
    opened: list[object] = []
    event.listen(store.database.engine, "connect", lambda connection, _: opened.append(connection))
    await store.add(job("one"))
    for turns in range(12):
        reading = asyncio.create_task(store.get("one"))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert (await store.get("one")).id == "one"
    assert opened == []


async def test_jobs_that_did_not_start_in_time_fail_with_what_kept_them(store: JobStore, clock: Clock) -> None:
    await store.add(replace(job("held"), start_by=clock.now + timedelta(seconds=60)))
    await store.note_waiting(LOCAL, Cause.of(errors.LoadFailed(cause="no GPU")))
    await store.add(replace(job("later"), start_by=clock.now + timedelta(seconds=90)))
    await store.add(job("patient"))
    assert await store.next_start_limit() == clock.now + timedelta(seconds=60)
    assert await store.fail_overdue() == ()
    clock.forward(seconds=60)
    assert [failed.id for failed in await store.fail_overdue()] == ["held"]
    held = await store.get("held")
    assert held.status is Status.FAILED
    assert held.error is not None
    assert held.error.code == "not-started-in-time"
    assert held.error.params["limit"] == "1m"
    assert "no GPU" in str(held.error.params["cause"])
    assert await store.next_start_limit() == held.created_at + timedelta(seconds=90)


async def test_job_that_has_started_has_no_start_limit_any_more(store: JobStore, clock: Clock) -> None:
    await store.add(replace(job("a"), start_by=clock.now + timedelta(seconds=60)))
    lease = await leased(store)
    await store.release(lease.token)
    clock.forward(seconds=120)
    assert await store.next_start_limit() is None
    assert await store.fail_overdue() == ()
    assert (await store.get("a")).status is Status.QUEUED
