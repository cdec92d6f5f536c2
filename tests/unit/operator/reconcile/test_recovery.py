"""A model that failed is well again when it has loaded, and not already while that is tried."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from testing.operator_harness import lease_of
from testing.reconcile_harness import KEY, LOADED, UNLOADED, Around, Loading
from whisper_cluster.pods import Reply

WORDS = "There is no checkpoint at '/models/x.pt'."
WELL, ILL = ("True", "False"), ("False", "True")
ENDED = {"exitCode": 137, "reason": "OOMKilled"}


class Failing:
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


class Silent:
    """A pod's server that does not answer."""

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        raise ConnectionRefusedError


def health(around: Around) -> tuple[str, str]:
    """Return whether it is Ready, and whether it is Degraded."""
    return around.condition("Ready").status, around.condition("Degraded").status


async def told(around: Around) -> tuple[str, tuple[str, str]]:
    """Return the state and the health that a status tells after some looks at the same instant."""
    for _ in range(3):
        await around.reconcile()
    return str(around.status.state), health(around)


async def with_a_pod(**spec: Any) -> Around:
    """Return a model whose pod has just become ready."""
    around = Around(**spec)
    await around.reconcile()
    around.start_pod()
    return around


async def failing() -> tuple[Around, Failing]:
    """Return a model whose first load is under way."""
    around = await with_a_pod(desiredState="Loaded")
    around.server = server = Failing()
    assert await told(around) == ("Loading", WELL)
    return around, server


async def fail(around: Around, server: Failing) -> None:
    server.may_end.set()
    assert await told(around) == ("Failed", ILL)
    around.now += timedelta(minutes=5)


async def test_a_load_that_fails_again_and_again_is_never_well_in_between() -> None:
    around, server = await failing()
    for _ in range(3):
        await fail(around, server)
        assert await told(around) == ("Loading", ILL)
        assert around.condition("Degraded").message == WORDS
    server.mended = True
    server.may_end.set()
    assert await told(around) == ("Loaded", WELL)


async def test_nor_is_it_while_what_the_load_left_behind_is_cleared_away() -> None:
    around, server = await failing()
    await fail(around, server)
    around.ask(desiredState="Unloaded", idle={"coldAfter": "0s"})
    _, health_meanwhile = await told(around)
    assert health_meanwhile == ILL
    server.may_end.set()
    assert await told(around) == ("Failed", ILL)


def show(around: Around, **container: Any) -> None:
    """Have the watch show the pod's container."""
    up = "True" if container.get("ready") else "False"
    around.show_pod(
        "base-1",
        phase="Running",
        podIP="10.0.0.7",
        conditions=[{"type": "Ready", "status": up}],
        containerStatuses=[{"name": "inference", **container}],
    )


async def kill(around: Around) -> None:
    """Have the container be killed for its memory, and started again."""
    show(around, state={"terminated": ENDED})
    assert await told(around) == ("Failed", ILL)
    show(around, restartCount=1, lastState={"terminated": ENDED}, ready=True, started=True, state={"running": {}})


async def test_a_container_that_is_killed_while_it_loads_is_not_well_when_it_runs_again() -> None:
    around, server = await failing()
    for _ in range(3):
        server.gone = True
        server.may_end.set()
        await kill(around)
        around.server = server = Failing()
        assert await told(around) == ("Unloaded", ILL), "the operator waits before it calls again"
        around.now += timedelta(minutes=5)
        assert await told(around) == ("Loading", ILL)
        assert around.condition("Degraded").reason == "OutOfMemory"
    server.mended = True
    server.may_end.set()
    assert await told(around) == ("Loaded", WELL)


async def test_a_container_that_was_killed_at_rest_is_well_when_it_runs_again_and_in_its_next_load() -> None:
    around = await with_a_pod(desiredState="Unloaded")
    await kill(around)
    assert await told(around) == ("Unloaded", WELL)
    around.now += timedelta(hours=9)
    around.server = Loading()
    around.store.leases.put(lease_of(renewed=around.now))
    assert await told(around) == ("Loading", WELL)


async def test_what_the_edit_of_a_spec_was_to_mend_is_looked_at_anew() -> None:
    around = await with_a_pod(desiredState="Loaded")
    await kill(around)
    around.server = Loading()
    around.ask(desiredState="Loaded", pod={"resources": {"limits": {"memory": "8Gi"}}})
    assert await told(around) == ("Loading", WELL)


async def crashed() -> Around:
    """Return a model that was loaded and whose container has been killed."""
    around = await with_a_pod(desiredState="Loaded")
    around.server = server = Failing()
    server.state = "Loaded"
    assert await told(around) == ("Loaded", WELL)
    await kill(around)
    return around


async def test_who_keeps_its_pods_away_is_told_rather_than_what_ended_the_last_one() -> None:
    around = await crashed()
    [pod] = around.store.pods.of(KEY)
    around.store.pods.remove(pod)
    for _ in range(2):
        around.scale(0, by="keda")
        await around.reconcile()
    assert around.condition("Ready").reason == around.condition("Degraded").reason == "ScalerConflict"


async def test_a_container_that_runs_again_and_says_nothing_is_not_taken_for_loaded() -> None:
    around = await crashed()
    around.server = Silent()
    show(around, restartCount=1, lastState={"terminated": ENDED}, started=True, state={"running": {}})
    assert await told(around) == ("Starting", ILL)
    show(around, restartCount=1, lastState={"terminated": ENDED}, ready=True, started=True, state={"running": {}})
    await told(around)
    assert (around.status.state, around.condition("Degraded").reason) == ("Starting", "Unreachable")
