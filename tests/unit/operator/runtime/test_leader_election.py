"""Leader election in virtual time, with an API server in memory that is as strict as a real one."""

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

from testing.leases_stand_in import Connection, Delivery, Server
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
    """A candidate with its own connection and clock."""

    connection: Connection
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
    server: Server,
    name: str,
    *,
    clock_off: float = 0.0,
    deliveries: Callable[[], Delivery] = Delivery,
    timing: Timing = TIMING,
) -> Replica:
    connection = Connection(server, deliveries)
    leadership = Leadership(
        connection,
        namespace="operator",
        name="whisper-operator",
        identity=name,
        timing=timing,
        now=lambda: EPOCH + timedelta(seconds=now() + clock_off),
    )
    task = asyncio.create_task(leadership.run())
    task.add_done_callback(lambda ended: None if ended.cancelled() else ended.exception())
    return Replica(connection, leadership, task)


def in_virtual_time(story: Callable[[Server], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run(lambda: story(Server()))

    test.__name__ = story.__name__
    return test


@in_virtual_time
async def test_free_lease_is_acquired_at_once(server: Server) -> None:
    one = replica(server, "one")
    assert await one.until_leading() == 0.0
    spec = server.leases["whisper-operator"]["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("one", 15, 1)


@in_virtual_time
async def test_leader_renews_while_another_replica_waits(server: Server) -> None:
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
def test_expired_lease_is_taken_over_despite_clock_skew(clock_off: float) -> None:
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
async def test_old_record_is_observed_for_its_duration_before_takeover(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await one.crash()
    await asyncio.sleep(1000)
    two = replica(server, "two")
    started = now()
    assert TIMING.duration <= await two.until_leading() - started <= TIMING.duration + TIMING.retry


@in_virtual_time
async def test_released_lease_is_acquired_within_one_retry(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    two = replica(server, "two")
    await asyncio.sleep(31)
    await one.stop()
    stopped = now()
    assert await two.until_leading() - stopped <= TIMING.retry


@in_virtual_time
async def test_follower_releases_nothing(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    two = replica(server, "two")
    await asyncio.sleep(5)
    await two.stop()
    assert server.holder == "one"


@in_virtual_time
async def test_unanswered_release_does_not_delay_shutdown(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    one.connection.deliveries = lambda: Delivery(before=1000)
    started = now()
    await one.stop()
    assert now() - started <= TIMING.retry


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Delivery(cut=True), id="every request is refused"),
        pytest.param(Delivery(before=1000.0), id="no request is answered"),
        pytest.param(Delivery(before=14.0, cut=True), id="every request is cut off late"),
    ],
)
def test_leader_that_cannot_renew_steps_down_before_takeover(trouble: Delivery) -> None:
    async def story() -> None:
        server = Server()
        one = replica(server, "one")
        await one.until_leading()
        two = replica(server, "two")
        await asyncio.sleep(100)
        loop = virtual_loop()
        idle: set[float] = set()
        loop.each_turn = lambda: idle.add(now()) if one.leads and not one.leadership.may_act() else None
        one.connection.deliveries = lambda: trouble
        cut_off = now()
        assert "could not renew the lease for 10 s" in await one.end()
        assert TIMING.deadline - TIMING.retry <= now() - cut_off <= TIMING.deadline + TIMING.retry
        assert not one.leads
        assert len(idle) <= 1, "it steps down in the instant in which it may not act any more"
        stepped_down = now()
        assert await two.until_leading() > stepped_down

    run(story)


@in_virtual_time
async def test_paused_leader_may_not_act_after_its_deadline(server: Server) -> None:
    one = replica(server, "one")
    assert not one.leadership.may_act()
    await one.until_leading()
    await asyncio.sleep(100)
    assert one.leadership.may_act()
    virtual_loop().stand_still(TIMING.deadline)
    assert (one.leads, one.leadership.may_act()) == (True, False)
    assert "could not renew the lease for 10 s" in await one.end()


@in_virtual_time
async def test_outage_shorter_than_the_deadline_keeps_the_lease(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    two = replica(server, "two")
    for _ in range(20):
        one.connection.deliveries = lambda: Delivery(cut=True)
        await asyncio.sleep(6)
        one.connection.deliveries = Delivery
        await asyncio.sleep(4)
    assert (one.leads, two.leads) == (True, False)


@in_virtual_time
async def test_slow_responses_keep_the_lease(server: Server) -> None:
    """2.5 s for the read and 2.5 s for the write: the lease counts from the start of the write."""
    one = replica(server, "one", deliveries=lambda: Delivery(before=0.5, after=2.0))
    await one.until_leading()
    await asyncio.sleep(600)
    assert one.leads


@in_virtual_time
async def test_hanging_request_keeps_the_lease(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    for _ in range(5):
        lost = iter([Delivery(before=1000)])
        one.connection.deliveries = lambda lost=lost: next(lost, Delivery())
        await asyncio.sleep(20)
    assert one.leads


@in_virtual_time
async def test_leader_steps_down_when_another_holds_the_lease(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await asyncio.sleep(9)
    server.leases["whisper-operator"]["spec"]["holderIdentity"] = "two"
    server.leases["whisper-operator"]["metadata"]["resourceVersion"] = "1000"
    started = now()
    assert await one.end() == "another replica holds the lease"
    assert now() - started <= TIMING.retry


@in_virtual_time
async def test_conflicting_write_is_retried(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await asyncio.sleep(9)
    # Somebody annotates the Lease between our read and our write.
    one.connection.deliveries = lambda: Delivery(before=0.2, after=0.3)
    for _ in range(12):
        await asyncio.sleep(3.3)
        server.version += 1
        server.leases["whisper-operator"]["metadata"]["resourceVersion"] = str(server.version)
    one.connection.deliveries = Delivery
    await asyncio.sleep(5)
    assert server.conflicts > 0
    assert one.leads


@in_virtual_time
async def test_leader_recreates_a_deleted_lease(server: Server) -> None:
    one = replica(server, "one")
    await one.until_leading()
    await asyncio.sleep(1)
    del server.leases["whisper-operator"]
    await asyncio.sleep(TIMING.retry)
    assert (one.leads, server.holder) == (True, "one")


@in_virtual_time
async def test_one_of_two_replicas_without_a_lease_leads(server: Server) -> None:
    candidates = [replica(server, name, deliveries=lambda: Delivery(before=0.1, after=0.1)) for name in ("one", "two")]
    await asyncio.sleep(30)
    assert [one.leads for one in candidates].count(True) == 1


@pytest.mark.parametrize("late", [7.5, 14.0])
def test_late_election_response_does_not_extend_leadership(late: float) -> None:
    async def story() -> None:
        server = Server()
        # The lease is written at once; the response arrives late, and then no other.
        deliveries = iter([Delivery(), Delivery(after=late)])
        one = replica(server, "one", deliveries=lambda: next(deliveries, Delivery(before=1000)))
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
def test_two_replicas_never_lead_at_once(seed: int, trouble: float) -> None:
    random = Random(seed)

    def deliveries() -> Delivery:
        if random.random() > trouble:
            return Delivery(before=random.random() / 10, after=random.random() / 10)
        return random.choice(
            [
                Delivery(cut=True),
                Delivery(before=random.uniform(0, 20)),
                Delivery(after=random.uniform(0, 20)),
                Delivery(before=1000),
            ]
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
                replicas[place] = replica(
                    server, f"{place}-{number}", clock_off=random.uniform(-99, 99), deliveries=deliveries
                )
            await asyncio.sleep(random.uniform(0, 40))
        assert both == []
        for one in replicas.values():
            one.connection.deliveries = Delivery
        await asyncio.sleep(60)
        assert sum(one.leads for one in replicas.values()) == 1 or all(one.task.done() for one in replicas.values())

    run(story)
