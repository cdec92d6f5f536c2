"""A failed model recovers when it has loaded, not while a load is being retried."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from testing.operator_harness import lease_of
from testing.reconcile_harness import KEY, LOADED, UNLOAD, UNLOADED, ReconcileHarness, SlowLoadServer
from whisper_cluster.pods import Reply
from whisper_operator.reconcile.status import BRIEF_LOAD

MESSAGE = "There is no checkpoint at '/models/x.pt'."
HEALTHY, DEGRADED = ("True", "False"), ("False", "True")
ENDED = {"exitCode": 137, "reason": "OOMKilled"}


class FailingServer:
    """A pod's server whose loads and unloads take as long as the test wishes, and then leave it failed.

    gone: its container ends during the load. is_fixed: the load succeeds.
    """

    def __init__(self) -> None:
        self.state, self.failure, self.depth = "Unloaded", None, "cold"
        self.may_end, self.gone, self.is_fixed = asyncio.Event(), False, False

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        if url.endswith("/model/status"):
            report = {"state": self.state, "failure": self.failure, "depth": self.depth}
            return Reply(200, json.dumps({**json.loads(UNLOADED), **report}).encode())
        if url.endswith("/model/load"):
            return await self.load()
        if url.endswith("/model/unload"):
            await self.may_end.wait()
            self.depth = "cold"
            return Reply(200, UNLOAD)
        return Reply(200, b"")

    async def load(self) -> Reply:
        self.state = "Loading"
        await self.may_end.wait()
        self.may_end.clear()
        if self.gone:
            raise ConnectionResetError
        if self.is_fixed:
            self.state, self.failure = "Loaded", None
            return Reply(200, LOADED)
        self.state, self.failure, self.depth = "Failed", MESSAGE, "warm"
        return Reply(503, json.dumps({"code": "model-load-failed", "detail": MESSAGE}).encode())


class UnreachableServer:
    """A pod's server that does not answer."""

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        raise ConnectionRefusedError


def health(harness: ReconcileHarness) -> tuple[str, str]:
    """Return the statuses of Ready and Degraded."""
    return harness.condition("Ready").status, harness.condition("Degraded").status


async def reconciled(harness: ReconcileHarness) -> tuple[str, tuple[str, str]]:
    """Reconcile three times at the same instant; return state and health."""
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
    """Return a model whose first load is in progress."""
    harness = await with_a_pod(desiredState="Loaded")
    harness.server = server = FailingServer()
    assert await reconciled(harness) == ("Starting", HEALTHY)
    harness.now += BRIEF_LOAD
    assert await reconciled(harness) == ("Loading", HEALTHY)
    return harness, server


async def fail(harness: ReconcileHarness, server: FailingServer) -> None:
    server.may_end.set()
    assert await reconciled(harness) == ("Failed", DEGRADED)
    harness.now += timedelta(minutes=5)


async def test_repeatedly_failing_load_stays_degraded() -> None:
    harness, server = await failing()
    for _ in range(3):
        await fail(harness, server)
        assert await reconciled(harness) == ("Loading", DEGRADED)
        assert harness.condition("Degraded").message == MESSAGE
    server.is_fixed = True
    server.may_end.set()
    assert await reconciled(harness) == ("Loaded", HEALTHY)


async def test_model_stays_degraded_while_the_failed_load_is_cleaned_up() -> None:
    harness, server = await failing()
    await fail(harness, server)
    harness.apply(desiredState="Unloaded", idle={"coldAfter": "0s"})
    _, health_meanwhile = await reconciled(harness)
    assert health_meanwhile == DEGRADED
    server.may_end.set()
    assert await reconciled(harness) == ("Failed", DEGRADED)


def show(harness: ReconcileHarness, **container: Any) -> None:
    """Show the pod's container in the watch."""
    up = "True" if container.get("ready") else "False"
    harness.show_pod(
        "base-1",
        phase="Running",
        podIP="10.0.0.7",
        conditions=[{"type": "Ready", "status": up}],
        containerStatuses=[{"name": "inference", **container}],
    )


async def kill(harness: ReconcileHarness) -> None:
    """Let the container be OOM-killed and restarted."""
    show(harness, state={"terminated": ENDED})
    assert await reconciled(harness) == ("Failed", DEGRADED)
    show(harness, restartCount=1, lastState={"terminated": ENDED}, ready=True, started=True, state={"running": {}})


async def test_container_killed_during_a_load_stays_degraded_until_a_load_succeeds() -> None:
    harness, server = await failing()
    for _ in range(3):
        server.gone = True
        server.may_end.set()
        await kill(harness)
        harness.server = server = FailingServer()
        assert await reconciled(harness) == ("Unloaded", DEGRADED), "the operator waits before it calls again"
        harness.now += timedelta(minutes=5)
        assert await reconciled(harness) == ("Loading", DEGRADED)
        assert harness.condition("Degraded").reason == "OutOfMemory"
    server.is_fixed = True
    server.may_end.set()
    assert await reconciled(harness) == ("Loaded", HEALTHY)


async def test_container_killed_at_rest_recovers_when_it_runs() -> None:
    harness = await with_a_pod(desiredState="Unloaded")
    await kill(harness)
    assert await reconciled(harness) == ("Unloaded", HEALTHY)
    harness.now += timedelta(hours=9)
    harness.server = SlowLoadServer()
    harness.store.leases.put(lease_of(renewed=harness.now))
    assert await reconciled(harness) == ("Loading", HEALTHY)


async def test_spec_change_clears_the_unproven_failure() -> None:
    harness = await with_a_pod(desiredState="Loaded")
    await kill(harness)
    harness.server = SlowLoadServer()
    harness.apply(desiredState="Loaded", pod={"resources": {"limits": {"memory": "8Gi"}}})
    assert await reconciled(harness) == ("Loading", HEALTHY)


async def crashed() -> ReconcileHarness:
    """Return a model whose container was killed while it was loaded."""
    harness = await with_a_pod(desiredState="Loaded")
    harness.server = server = FailingServer()
    server.state = "Loaded"
    assert await reconciled(harness) == ("Loaded", HEALTHY)
    await kill(harness)
    return harness


async def test_scaler_conflict_wins_over_the_last_failure() -> None:
    harness = await crashed()
    [pod] = harness.store.pods.of(KEY)
    harness.store.pods.remove(pod)
    for _ in range(2):
        harness.scale(0, by="keda")
        await harness.reconcile()
    assert harness.condition("Ready").reason == harness.condition("Degraded").reason == "ScalerConflict"


async def test_restarted_unresponsive_container_is_starting() -> None:
    harness = await crashed()
    harness.server = UnreachableServer()
    show(harness, restartCount=1, lastState={"terminated": ENDED}, started=True, state={"running": {}})
    assert await reconciled(harness) == ("Starting", DEGRADED)
    show(harness, restartCount=1, lastState={"terminated": ENDED}, ready=True, started=True, state={"running": {}})
    await reconciled(harness)
    assert (harness.status.state, harness.condition("Degraded").reason) == ("Starting", "Unreachable")
