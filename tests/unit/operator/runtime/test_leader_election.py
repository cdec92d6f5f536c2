"""Leadership by a Lease, in virtual time, over an API server in memory that is as strict as the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.leases_stand_in import Server, Trip, Wire
from testing.virtual_time import run, virtual_loop
from whisper_operator.errors import LeadershipLost
from whisper_operator.runtime.leader_election import Leadership, Timing

EPOCH = datetime(2026, 3, 2, 12, tzinfo=UTC)
TIMING = Timing()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Replica:
    """A candidate with its own connection and its own clock."""

    wire: Wire
    leadership: Leadership
    task: asyncio.Task[None]

    @property
    def leads(self) -> bool:
        return self.leadership.leading.is_set()

    async def until_leading(self) -> float:
        await self.leadership.leading.wait()
        return now()

    async def crash(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def stop(self) -> None:
        await self.crash()
        await self.leadership.release()

    async def end(self) -> str:
        """Wait until it steps down; return why."""
        with pytest.raises(LeadershipLost) as lost:
            await self.task
        return str(lost.value)


def replica(
    server: Server, name: str, *, clock_off: float = 0.0, trips: Callable[[], Trip] = Trip, timing: Timing = TIMING
) -> Replica:
    wire = Wire(server, trips)
    leadership = Leadership(
        wire,
        namespace="operator",
        name="whisper-operator",
        identity=name,
        timing=timing,
        now=lambda: EPOCH + timedelta(seconds=now() + clock_off),
    )
    task = asyncio.create_task(leadership.run())
    task.add_done_callback(lambda ended: None if ended.cancelled() else ended.exception())
    return Replica(wire, leadership, task)


def in_virtual_time(story: Callable[[Server], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run(lambda: story(Server()))

    test.__name__ = story.__name__
    return test


@in_virtual_time
async def test_a_free_lease_is_taken_at_once(server: Server) -> None:
    one = replica(server, "one")
    assert await one.until_leading() == 0.0
    spec = server.leases["whisper-operator"]["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("one", 15, 1)


@in_virtual_time
async def test_a_leader_renews_and_stays_while_another_waits(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    two = replica(server, "two")
    taken = server.leases["whisper-operator"]["spec"]
    await asyncio.sleep(600)
    assert (one.leads, two.leads, server.holder) == (True, False, "one")
    spec = server.leases["whisper-operator"]["spec"]
    assert spec["acquireTime"] == taken["acquireTime"]
    assert spec["leaseTransitions"] == taken["leaseTransitions"]
    assert spec["renewTime"] > taken["renewTime"]


@pytest.mark.parametrize("clock_off", [-86_400.0, 0.0, 86_400.0])
def test_a_lease_that_nobody_renews_is_taken_over_whatever_the_clocks_say(clock_off: float) -> None:
    async def story() -> None:
        server = Server()
        one = replica(server, "one")
        await one.until_leading()
        two = replica(server, "two", clock_off=clock_off)
        await asyncio.sleep(60)
        await one.crash()
        crashed = now()
        waited = await two.until_leading() - crashed
        assert TIMING.duration - TIMING.retry <= waited <= TIMING.duration + TIMING.retry
        assert waited < 20

    run(story)


@in_virtual_time
async def test_an_old_record_is_watched_for_its_whole_duration_before_it_is_taken(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await one.crash()
    await asyncio.sleep(1000)
    two = replica(server, "two")
    started = now()
    assert TIMING.duration <= await two.until_leading() - started <= TIMING.duration + TIMING.retry


@in_virtual_time
async def test_a_released_lease_is_taken_within_one_retry(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    two = replica(server, "two")
    await asyncio.sleep(31)
    await one.stop()
    stopped = now()
    assert await two.until_leading() - stopped <= TIMING.retry


@in_virtual_time
async def test_one_who_does_not_lead_releases_nothing(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    two = replica(server, "two")
    await asyncio.sleep(5)
    await two.stop()
    assert server.holder == "one"


@in_virtual_time
async def test_a_release_that_nobody_answers_does_not_hold_up_the_end(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    one.wire.trips = lambda: Trip(before=1000)
    started = now()
    await one.stop()
    assert now() - started <= TIMING.retry


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Trip(cut=True), id="every request is refused"),
        pytest.param(Trip(before=1000.0), id="no request is answered"),
        pytest.param(Trip(before=14.0, cut=True), id="every request is cut off late"),
    ],
)
def test_a_leader_that_cannot_renew_steps_down_before_another_may_take_over(trouble: Trip) -> None:
    async def story() -> None:
        server = Server()
        one = replica(server, "one")
        await one.until_leading()
        two = replica(server, "two")
        await asyncio.sleep(100)
        loop = virtual_loop()
        idle: set[float] = set()
        loop.each_turn = lambda: idle.add(now()) if one.leads and not one.leadership.may_act() else None
        one.wire.trips = lambda: trouble
        cut_off = now()
        assert "could not renew the lease for 10 s" in await one.end()
        assert TIMING.deadline - TIMING.retry <= now() - cut_off <= TIMING.deadline + TIMING.retry
        assert not one.leads
        assert len(idle) <= 1, "it steps down in the instant in which it may not act any more"
        stepped_down = now()
        assert await two.until_leading() > stepped_down

    run(story)


@in_virtual_time
async def test_one_that_was_stopped_may_not_act_before_it_has_noticed(server: Server) -> None:
    one = replica(server, "one")
    assert not one.leadership.may_act()
    await one.until_leading()
    await asyncio.sleep(100)
    assert one.leadership.may_act()
    virtual_loop().stand_still(TIMING.deadline)
    assert (one.leads, one.leadership.may_act()) == (True, False)
    assert "could not renew the lease for 10 s" in await one.end()


@in_virtual_time
async def test_troubles_that_are_shorter_than_the_deadline_change_nothing(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    two = replica(server, "two")
    for _ in range(20):
        one.wire.trips = lambda: Trip(cut=True)
        await asyncio.sleep(6)
        one.wire.trips = Trip
        await asyncio.sleep(4)
    assert (one.leads, two.leads) == (True, False)


@in_virtual_time
async def test_a_leader_keeps_its_lease_though_each_answer_takes_seconds(server: Server) -> None:
    """2.5 s for the look and 2.5 s for the write: what counts begins with the write."""
    one = replica(server, "one", trips=lambda: Trip(before=0.5, after=2.0))
    await one.until_leading()
    await asyncio.sleep(600)
    assert one.leads


@in_virtual_time
async def test_a_request_that_hangs_does_not_cost_the_lease(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    for _ in range(5):
        lost = iter([Trip(before=1000)])
        one.wire.trips = lambda lost=lost: next(lost, Trip())
        await asyncio.sleep(20)
    assert one.leads


@in_virtual_time
async def test_a_leader_whose_lease_was_given_to_another_steps_down_at_its_next_look(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await asyncio.sleep(9)
    server.leases["whisper-operator"]["spec"]["holderIdentity"] = "two"
    server.leases["whisper-operator"]["metadata"]["resourceVersion"] = "1000"
    started = now()
    assert await one.end() == "another replica holds the lease"
    assert now() - started <= TIMING.retry


@in_virtual_time
async def test_a_write_that_crosses_another_one_is_made_again(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await asyncio.sleep(9)
    # Somebody annotates the Lease between our read and our write.
    one.wire.trips = lambda: Trip(before=0.2, after=0.3)
    for _ in range(12):
        await asyncio.sleep(3.3)
        server.version += 1
        server.leases["whisper-operator"]["metadata"]["resourceVersion"] = str(server.version)
    one.wire.trips = Trip
    await asyncio.sleep(5)
    assert server.conflicts > 0
    assert one.leads


@in_virtual_time
async def test_a_lease_that_was_deleted_is_made_again_by_its_leader(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await asyncio.sleep(1)
    del server.leases["whisper-operator"]
    await asyncio.sleep(TIMING.retry)
    assert (one.leads, server.holder) == (True, "one")


@in_virtual_time
async def test_of_two_that_find_no_lease_one_leads(server: Server) -> None:
    candidates = [replica(server, name, trips=lambda: Trip(before=0.1, after=0.1)) for name in ("one", "two")]
    await asyncio.sleep(30)
    assert [one.leads for one in candidates].count(True) == 1


@pytest.mark.parametrize("late", [7.5, 14.0])
def test_one_who_learns_late_that_it_was_elected_does_not_lead_for_longer(late: float) -> None:
    async def story() -> None:
        server = Server()
        # Its lease is written at once; it hears of it late, and then nothing more.
        trips = iter([Trip(), Trip(after=late)])
        one = replica(server, "one", trips=lambda: next(trips, Trip(before=1000)))
        await asyncio.sleep(0.1)
        assert server.holder == "one"
        two = replica(server, "two")
        loop = virtual_loop()
        both: list[float] = []
        loop.each_turn = lambda: both.append(loop.time()) if one.leads and two.leads else None
        await asyncio.sleep(60)
        assert both == []
        assert two.leads

    run(story)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), trouble=st.sampled_from([0.05, 0.3, 0.6]))
def test_two_never_lead_at_once_whatever_fails(seed: int, trouble: float) -> None:
    random = Random(seed)

    def trips() -> Trip:
        if random.random() > trouble:
            return Trip(before=random.random() / 10, after=random.random() / 10)
        return random.choice(
            [Trip(cut=True), Trip(before=random.uniform(0, 20)), Trip(after=random.uniform(0, 20)), Trip(before=1000)]
        )

    async def story() -> None:
        server, replicas, reigns = Server(), dict[str, Replica](), 0
        loop = virtual_loop()
        both: list[tuple[float, list[str]]] = []

        def check() -> None:
            leaders = [name for name, one in replicas.items() if one.leads or one.leadership.may_act()]
            if len(leaders) > 1:
                both.append((loop.time(), leaders))

        loop.each_turn = check
        for number in range(25):
            for place in ("a", "b", "c"):
                if place in replicas and not replicas[place].task.done() and random.random() > 0.1:
                    continue
                if place in replicas:
                    reigns += replicas[place].leads
                    await random.choice([Replica.crash, Replica.stop])(replicas[place])
                replicas[place] = replica(server, f"{place}-{number}", clock_off=random.uniform(-99, 99), trips=trips)
            await asyncio.sleep(random.uniform(0, 40))
        assert both == []
        for one in replicas.values():
            one.wire.trips = Trip
        await asyncio.sleep(60)
        assert sum(one.leads for one in replicas.values()) == 1 or all(one.task.done() for one in replicas.values())

    run(story)
