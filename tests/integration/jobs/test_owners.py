"""Several processes share a database: each runs its own attempts, and takes over those of a process that is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from testing.jobs import Elapse, job, leased, section
from whisper_inference import errors
from whisper_inference.jobs.job import LEASE, LOCAL, MAX_ATTEMPTS, Recovered, StaleAttempt, Status, StoredAudio
from whisper_inference.jobs.store import JobStore

Owners = tuple[JobStore, JobStore]
NOBODY = Recovered(requeued=(), failed=())


@pytest.fixture
def owners(store: JobStore, stores: Callable[[str], JobStore]) -> Owners:
    return stores("gateway-0"), stores("gateway-1")


async def test_lease_that_ran_out_is_taken_over_after_the_last_section(owners: Owners, elapse: Elapse) -> None:
    first, second = owners
    await first.add(job("a"))
    old = await leased(first)
    await first.append_section(old.token, section(" One.", end=16_000))
    await elapse(LEASE - timedelta(seconds=1))
    assert await second.take_over("gone") == NOBODY
    await elapse(timedelta(seconds=1))
    assert await second.take_over("gone") == Recovered(requeued=("a",), failed=())
    new = await leased(second)
    assert (new.job.attempts, new.resume and new.resume.next_start_sample) == (2, 16_000)
    with pytest.raises(StaleAttempt):
        await first.succeed(old.token, 1.0)
    await second.succeed(new.token, 1.0)


async def test_renewed_lease_is_not_taken_over(owners: Owners, elapse: Elapse) -> None:
    first, second = owners
    for name in "ab":
        await first.add(job(name))
    tokens = [(await leased(first)).token for _ in "ab"]
    for _ in range(5):
        await elapse(LEASE - timedelta(seconds=1))
        assert await first.renew(tokens) == set(tokens)
        assert await second.take_over("gone") == NOBODY


async def test_renewal_names_the_attempts_that_are_still_current(owners: Owners, elapse: Elapse) -> None:
    first, second = owners
    for name in ("taken over", "cancelled", "goes on"):
        await first.add(job(name))
    taken, cancelled = (await leased(first)).token, (await leased(first)).token
    await elapse(LEASE)
    await first.cancel("cancelled")
    await second.take_over("gone")
    current = (await leased(first)).token
    assert await first.renew([taken, cancelled, current]) == {current}
    assert await first.renew([]) == set()


async def test_third_attempt_that_is_taken_over_fails_the_job(owners: Owners, elapse: Elapse) -> None:
    first, second = owners
    await first.add(job("a"))
    for _ in range(MAX_ATTEMPTS - 1):
        await first.retry((await leased(first)).token, "killed")
    await leased(first)
    await elapse(LEASE)
    assert await second.take_over("gone") == Recovered(requeued=(), failed=("a",))
    with pytest.raises(errors.WorkerLost, match="gone"):
        await second.transcript("a")
    assert await second.final_audio("a") == StoredAudio("audio/a", 1000)


async def test_owner_never_takes_its_own_attempts(owners: Owners, elapse: Elapse) -> None:
    first, _ = owners
    await first.add(job("a"))
    await leased(first)
    await elapse(timedelta(hours=1))
    assert await first.take_over("gone") == NOBODY


@pytest.mark.parametrize("hours", [1, -1], ids=["forward", "back"])
async def test_stepped_clock_neither_loses_nor_doubles_a_job(owners: Owners, elapse: Elapse, hours: int) -> None:
    first, second = owners
    await first.add(job("a"))
    living = await leased(first)
    await elapse(timedelta(hours=hours))
    assert await second.take_over("gone") == Recovered(requeued=("a",), failed=()), "or it would wait for the clock"
    assert await first.renew([living.token]) == set()
    new = await leased(second)
    assert await first.take_over("gone") == NOBODY
    await second.succeed(new.token, 1.0)
    with pytest.raises(StaleAttempt):
        await first.succeed(living.token, 2.0)
    assert (await first.transcript("a")).duration == 1.0


async def test_recovery_leaves_the_attempts_of_other_owners(owners: Owners) -> None:
    first, second = owners
    await first.add(job("first's"))
    await first.add(job("second's"))
    await leased(first)
    lease = await leased(second)
    assert await first.recover("it ended") == Recovered(requeued=("first's",), failed=())
    await second.succeed(lease.token, 1.0)


async def test_recovery_leaves_the_clients_of_other_owners(owners: Owners) -> None:
    first, second = owners
    await first.add(replace(job("first's"), synchronous=True))
    await second.add(replace(job("second's"), synchronous=True))
    await first.recover("it ended")
    assert await first.fail_waiting_clients(LOCAL, errors.LoadFailed(cause="no GPU")) == ("second's",)


async def test_recovery_leaves_the_audio_of_jobs_that_others_ended(owners: Owners) -> None:
    first, second = owners
    for name in ("succeeded", "cancelled"):
        await first.add(job(name))
    await second.succeed((await leased(second)).token, 1.0)
    await second.cancel("cancelled")
    await first.recover("it ended")
    assert len(await first.stored_audio()) == 2
    await second.recover("it ended")
    assert await first.stored_audio() == ()


async def test_attempts_without_a_lease_are_taken_over(owners: Owners) -> None:
    first, second = owners
    await first.add(job("a"))
    await leased(first)
    as_first_release = "UPDATE jobs SET owner = '', leased_until = NULL"
    await first.database.transact(lambda connection: connection.exec_driver_sql(as_first_release).rowcount)
    assert (await second.take_over("gone")).requeued == ("a",)
    assert (await second.get("a")).status is Status.QUEUED
