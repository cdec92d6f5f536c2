"""The demand of Leases: when it ends, and what its end leads to."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from testing.operator_harness import NOON, lease_of, seconds
from testing.reconcile_harness import KEY, IdleServer, ReconcileHarness
from testing.simulated_api import Answer
from whisper_cluster.api import LEASES
from whisper_cluster.errors import ClusterError
from whisper_cluster.leases import Lease
from whisper_cluster.names import MANUAL_ANNOTATION
from whisper_operator.reconcile.demand import DemandRecord
from whisper_operator.reconcile.requeue import POLL, POLL_MOVING

IDLE = {"unloadAfter": "20s", "scaleToZeroAfter": "40s"}


def lease(*, ends: float) -> Lease:
    """Return a Lease that expires so many seconds after noon."""
    return lease_of(renewed=NOON + seconds(ends - 15))


class TestEndOfDemand:
    @pytest.mark.parametrize(
        ("before", "after", "ended"),
        [
            pytest.param([lease(ends=10)], [], 5, id="a deleted Lease ended when it was missed"),
            pytest.param([lease(ends=3)], [], 3, id="one that had expired before ended then"),
            pytest.param([lease(ends=10)], [lease(ends=2)], 2, id="one that was set back ended when its holder says"),
            pytest.param([lease(ends=10)], [lease(ends=-60)], 5, id="one that was renewed later than that ended now"),
            pytest.param([lease(ends=3)], [lease(ends=3)], 3, id="an expired Lease that is still there"),
            pytest.param([], [lease(ends=-60)], -60, id="one that expired before the operator started"),
            pytest.param([lease(ends=3)], [lease(ends=18)], None, id="a renewed Lease goes on"),
            pytest.param([], [], None, id="no Lease at all"),
        ],
    )
    def test_demand_ends_with_its_lease(self, before: list[Lease], after: list[Lease], ended: float | None) -> None:
        record = DemandRecord()
        record.record(before, NOON)
        record.record(after, NOON + seconds(5))
        assert record.ended_at == (None if ended is None else NOON + seconds(ended))

    def test_end_is_kept_after_the_lease_is_gone(self) -> None:
        record = DemandRecord()
        record.record([lease(ends=10)], NOON)
        record.record([], NOON + seconds(5))
        record.record([], NOON + seconds(60))
        assert record.ended_at == NOON + seconds(5)


async def woken() -> ReconcileHarness:
    """Return a model in Auto that demand has loaded for half a minute, and that has not worked yet."""
    harness = ReconcileHarness(idle=IDLE)
    harness.set_status(state="Zero", target="Zero", idleSince="2026-03-02T08:00:00Z")
    harness.renew(lasts=600)
    await harness.reconcile()
    harness.start_pod()
    harness.server = IdleServer(harness, worked=False)
    await harness.pass_time(timedelta(seconds=30))
    assert (harness.status.state, harness.status.reason) == ("Loaded", "Demand")
    return harness


async def test_deleted_lease_starts_the_idle_time() -> None:
    harness = await woken()
    harness.delete_lease()
    await harness.reconcile()
    assert harness.status.target == "Loaded", "it is idle from now on, not since the morning"
    assert harness.status.idle_since == harness.now
    await harness.pass_time(timedelta(seconds=19))
    assert harness.status.state == "Loaded"
    await harness.pass_time(timedelta(seconds=3))
    assert harness.status.state == "Unloaded"


async def test_restarted_operator_knows_when_deleted_demand_ended() -> None:
    harness = await woken()
    harness.delete_lease()
    await harness.reconcile()
    ended = harness.now
    harness.restart()
    harness.now += timedelta(seconds=10)
    await harness.reconcile()
    assert (harness.status.state, harness.status.idle_since) == ("Loaded", ended)


LIST = LEASES.path(KEY.namespace)


async def about_to_unload(**spec: Any) -> tuple[ReconcileHarness, IdleServer]:
    """Return a loaded model whose idle time is over."""
    harness = ReconcileHarness(idle=IDLE, **spec)
    harness.renew()
    await harness.reconcile()
    harness.start_pod()
    harness.server = server = IdleServer(harness)
    await harness.reconcile()
    assert (harness.status.state, harness.api.reads.count(LIST)) == ("Loaded", 0)
    harness.now += timedelta(minutes=1)
    return harness, server


class TestLookBeforeAStepDown:
    async def test_demand_that_no_watch_has_shown_prevents_an_unload(self) -> None:
        harness, server = await about_to_unload()
        harness.renew(is_shown=False)
        assert await harness.reconcile() == harness.now, "plan again at once"
        await harness.reconcile()
        assert (harness.status.state, harness.status.reason, server.state) == ("Loaded", "Demand", "Loaded")

    async def test_demand_that_no_watch_has_shown_keeps_the_pod(self) -> None:
        harness, _ = await about_to_unload()
        await harness.pass_time(timedelta(seconds=1))
        assert harness.status.state == "Unloading", "the pod is about to go"
        harness, server = await about_to_unload()
        server.state = "Unloaded"
        harness.renew(is_shown=False)
        await harness.pass_time(timedelta(seconds=1))
        [deployment] = [one for path, one in harness.api.objects.items() if "/deployments/" in path]
        assert (harness.status.target, deployment["spec"]["replicas"]) == ("Loaded", 1)

    async def test_manual_load_that_no_watch_has_shown_prevents_an_unload(self) -> None:
        harness, server = await about_to_unload()
        path = LEASES.path(KEY.namespace, "demand")
        manual = {MANUAL_ANNOTATION: json.dumps({"state": "Loaded", "at": harness.now.isoformat()})}
        expired = harness.api.objects[path]
        harness.api.put(path, {**expired, "metadata": {**expired["metadata"], "annotations": manual}})
        await harness.pass_time(timedelta(seconds=1))
        assert (harness.status.reason, server.state) == ("Manual", "Loaded")

    async def test_each_step_down_reads_once(self) -> None:
        harness, _ = await about_to_unload()
        harness.api.reads.clear()
        await harness.pass_time(timedelta(hours=1))
        assert harness.status.state == "Unloading", "nobody ends pods in this test"
        assert harness.api.reads.count(LIST) == 2, "one before the unload, one before the pod goes"

    async def test_model_that_stays_loaded_reads_no_leases(self) -> None:
        harness, _ = await about_to_unload(desiredState="Loaded")
        await harness.pass_time(timedelta(hours=1))
        assert harness.api.reads.count(LIST) == 0

    async def test_failed_read_postpones_the_step(self) -> None:
        harness, server = await about_to_unload()
        harness.api.fails = LIST
        with pytest.raises(ClusterError, match="request timed out"):
            await harness.reconcile()
        assert (server.state, harness.status.state) == ("Loaded", "Loaded")
        harness.api.fails = None
        await harness.reconcile()
        assert server.state == "Unloaded"

    async def test_lease_deleted_during_the_read_is_not_restored(self) -> None:
        harness, server = await about_to_unload()
        call = harness.api.call_api

        async def delete_during(*request: Any, _request_timeout: float) -> Answer:
            answer = await call(*request, _request_timeout=_request_timeout)
            if request[1] == LIST:
                harness.delete_lease()
            return answer

        harness.renew(is_shown=False)
        harness.api.call_api = delete_during
        await harness.reconcile()
        assert (harness.store.leases.of(KEY), server.state) == ([], "Unloaded")


class TestPoll:
    """How soon the operator asks the pods again, which a client may load without telling it."""

    async def waiting(self, **spec: Any) -> ReconcileHarness:
        """Return a model with an unloaded pod that nobody calls, because the model is suspended."""
        harness = ReconcileHarness(**{"desiredState": "Unloaded", **spec})
        await harness.reconcile()
        harness.start_pod()
        harness.apply(**{"desiredState": "Unloaded", "suspend": True, **spec})
        await harness.reconcile()
        assert harness.status.state == "Unloaded"
        return harness

    async def test_load_that_a_client_causes_is_reported_within_a_second_of_it(self) -> None:
        harness = await self.waiting()
        harness.renew()
        assert await harness.reconcile() == harness.now + POLL_MOVING
        harness.server = IdleServer(harness)
        harness.now += POLL_MOVING
        assert await harness.reconcile() != harness.now + POLL_MOVING
        assert harness.status.state == "Loaded"

    async def test_expired_demand_is_polled_for_no_more(self) -> None:
        harness = await self.waiting()
        harness.renew(lasts=1)
        harness.now += timedelta(seconds=1)
        assert await harness.reconcile() == harness.now + POLL

    async def test_loaded_model_is_polled_rarely_whatever_the_demand(self) -> None:
        harness = await self.waiting()
        harness.server = IdleServer(harness)
        harness.renew(lasts=600)
        assert await harness.reconcile() == harness.now + POLL
