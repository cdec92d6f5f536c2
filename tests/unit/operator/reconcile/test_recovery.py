"""A model that failed is well again when it has loaded, and not already while that is tried."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from testing.operator_harness import lease_of
from testing.reconcile_harness import KEY, LOADED, UNLOADED, ReconcileHarness, SlowLoadServer
from whisper_cluster.pods import Reply

WORDS = "There is no checkpoint at '/models/x.pt'."
WELL, ILL = ("True", "False"), ("False", "True")
ENDED = {"exitCode": 137, "reason": "OOMKilled"}


class FailingServer:
    """A pod's server whose loads and unloads take as long as the test wishes, and then leave it failed.

    gone: they end with its container. mended: they succeed.
    """

    def __init__(self) -> None:
        self.state, self.failure, self.depth = "Unloaded", None, "cold"
        self.may_end, self.gone, self.mended = asyncio.Event(), False, False

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        if url.endswith("/model/status"):
            told = {"state": self.state, "failure": self.failure, "depth": self.depth}
            return Reply(200, json.dumps({**json.loads(UNLOADED), **told}).encode())
        if url.endswith("/model/load"):
            return await self.load()
        if url.endswith("/model/unload"):
            await self.may_end.wait()
            self.depth = "cold"
            return Reply(200, b"{}")
        return Reply(200, b"")

    async def load(self) -> Reply:
        self.state = "Loading"
        await self.may_end.wait()
        self.may_end.clear()
        if self.gone:
            raise ConnectionResetError
        if self.mended:
            self.state, self.failure = "Loaded", None
            return Reply(200, LOADED)
        self.state, self.failure, self.depth = "Failed", WORDS, "warm"
        return Reply(503, json.dumps({"code": "model-load-failed", "detail": WORDS}).encode())


class UnreachableServer:
    """A pod's server that does not answer."""

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        raise ConnectionRefusedError


def health(harness: ReconcileHarness) -> tuple[str, str]:
    """Return whether it is Ready, and whether it is Degraded."""
    return harness.condition("Ready").status, harness.condition("Degraded").status


async def told(harness: ReconcileHarness) -> tuple[str, tuple[str, str]]:
    """Return the state and the health that a status tells after some looks at the same instant."""
    for _ in range(3):
        await harness.reconcile()
    return str(harness.status.state), health(harness)


async def with_a_pod(**spec: Any) -> ReconcileHarness:
    """Return a model whose pod has just become ready."""
    harness = ReconcileHarness(**spec)
    await harness.reconcile()
    harness.start_pod()
    return harness


async def failing() -> tuple[ReconcileHarness, FailingServer]:
    """Return a model whose first load is under way."""
    harness = await with_a_pod(desiredState="Loaded")
    harness.server = server = FailingServer()
    assert await told(harness) == ("Loading", WELL)
    return harness, server


async def fail(harness: ReconcileHarness, server: FailingServer) -> None:
    server.may_end.set()
    assert await told(harness) == ("Failed", ILL)
    harness.now += timedelta(minutes=5)


async def test_a_load_that_fails_again_and_again_is_never_well_in_between() -> None:
    harness, server = await failing()
    for _ in range(3):
        await fail(harness, server)
        assert await told(harness) == ("Loading", ILL)
        assert harness.condition("Degraded").message == WORDS
    server.mended = True
    server.may_end.set()
    assert await told(harness) == ("Loaded", WELL)


async def test_nor_is_it_while_what_the_load_left_behind_is_cleared_away() -> None:
    harness, server = await failing()
    await fail(harness, server)
    harness.ask(desiredState="Unloaded", idle={"coldAfter": "0s"})
    _, health_meanwhile = await told(harness)
    assert health_meanwhile == ILL
    server.may_end.set()
    assert await told(harness) == ("Failed", ILL)


def show(harness: ReconcileHarness, **container: Any) -> None:
    """Have the watch show the pod's container."""
    up = "True" if container.get("ready") else "False"
    harness.show_pod(
        "base-1",
        phase="Running",
        podIP="10.0.0.7",
        conditions=[{"type": "Ready", "status": up}],
        containerStatuses=[{"name": "inference", **container}],
    )


async def kill(harness: ReconcileHarness) -> None:
    """Have the container be killed for its memory, and started again."""
    show(harness, state={"terminated": ENDED})
    assert await told(harness) == ("Failed", ILL)
    show(harness, restartCount=1, lastState={"terminated": ENDED}, ready=True, started=True, state={"running": {}})


async def test_a_container_that_is_killed_while_it_loads_is_not_well_when_it_runs_again() -> None:
    harness, server = await failing()
    for _ in range(3):
        server.gone = True
        server.may_end.set()
        await kill(harness)
        harness.server = server = FailingServer()
        assert await told(harness) == ("Unloaded", ILL), "the operator waits before it calls again"
        harness.now += timedelta(minutes=5)
        assert await told(harness) == ("Loading", ILL)
        assert harness.condition("Degraded").reason == "OutOfMemory"
    server.mended = True
    server.may_end.set()
    assert await told(harness) == ("Loaded", WELL)


async def test_a_container_that_was_killed_at_rest_is_well_when_it_runs_again_and_in_its_next_load() -> None:
    harness = await with_a_pod(desiredState="Unloaded")
    await kill(harness)
    assert await told(harness) == ("Unloaded", WELL)
    harness.now += timedelta(hours=9)
    harness.server = SlowLoadServer()
    harness.store.leases.put(lease_of(renewed=harness.now))
    assert await told(harness) == ("Loading", WELL)


async def test_what_the_edit_of_a_spec_was_to_mend_is_looked_at_anew() -> None:
    harness = await with_a_pod(desiredState="Loaded")
    await kill(harness)
    harness.server = SlowLoadServer()
    harness.ask(desiredState="Loaded", pod={"resources": {"limits": {"memory": "8Gi"}}})
    assert await told(harness) == ("Loading", WELL)


async def crashed() -> ReconcileHarness:
    """Return a model that was loaded and whose container has been killed."""
    harness = await with_a_pod(desiredState="Loaded")
    harness.server = server = FailingServer()
    server.state = "Loaded"
    assert await told(harness) == ("Loaded", WELL)
    await kill(harness)
    return harness


async def test_who_keeps_its_pods_away_is_told_rather_than_what_ended_the_last_one() -> None:
    harness = await crashed()
    [pod] = harness.store.pods.of(KEY)
    harness.store.pods.remove(pod)
    for _ in range(2):
        harness.scale(0, by="keda")
        await harness.reconcile()
    assert harness.condition("Ready").reason == harness.condition("Degraded").reason == "ScalerConflict"


async def test_a_container_that_runs_again_and_says_nothing_is_not_taken_for_loaded() -> None:
    harness = await crashed()
    harness.server = UnreachableServer()
    show(harness, restartCount=1, lastState={"terminated": ENDED}, started=True, state={"running": {}})
    assert await told(harness) == ("Starting", ILL)
    show(harness, restartCount=1, lastState={"terminated": ENDED}, ready=True, started=True, state={"running": {}})
    await told(harness)
    assert (harness.status.state, harness.condition("Degraded").reason) == ("Starting", "Unreachable")
