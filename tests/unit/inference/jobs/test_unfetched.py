"""Results that nobody has fetched yet."""

from __future__ import annotations

import asyncio

from whisper_inference.jobs.unfetched import UnfetchedResults


async def ends(waiting: asyncio.Task[None]) -> bool:
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    return bool(done)


async def test_nothing_is_waited_for_without_finished_jobs() -> None:
    await asyncio.wait_for(UnfetchedResults().all_fetched(), 1)


async def test_the_wait_ends_once_each_result_is_fetched() -> None:
    unfetched = UnfetchedResults()
    unfetched.add("a")
    unfetched.add("b")
    waiting = asyncio.create_task(unfetched.all_fetched())
    assert not await ends(waiting)
    unfetched.discard("a")
    assert not await ends(waiting)
    unfetched.discard("b")
    assert await ends(waiting)


async def test_absent_clients_are_not_waited_for_longer() -> None:
    unfetched = UnfetchedResults(wait_seconds=0.02)
    unfetched.add("a")
    await asyncio.wait_for(unfetched.all_fetched(), 5)
    assert unfetched.jobs == []


async def test_the_wait_is_brief_once_the_client_has_seen_the_end() -> None:
    unfetched = UnfetchedResults(fetch_seconds=0.2)
    unfetched.add("a")
    waiting = asyncio.create_task(unfetched.all_fetched())
    assert not await ends(waiting)
    unfetched.note_seen("a")
    assert not await ends(waiting), "it may fetch the result now"
    await asyncio.wait_for(waiting, 5)


async def test_repeated_status_requests_do_not_prolong_the_wait() -> None:
    unfetched = UnfetchedResults(fetch_seconds=0.05)
    unfetched.add("a")
    async with asyncio.timeout(5):
        while unfetched.jobs:
            unfetched.note_seen("a")
            await asyncio.sleep(0.01)


async def test_expired_entries_are_forgotten() -> None:
    unfetched = UnfetchedResults(wait_seconds=0)
    for number in range(1000):
        unfetched.add(str(number))
    assert len(unfetched._until) == 1


async def test_reading_a_running_job_does_not_count_as_fetching_its_result() -> None:
    unfetched = UnfetchedResults()
    unfetched.note_seen("a")
    unfetched.discard("a")
    unfetched.add("a")
    assert unfetched.jobs == ["a"]
