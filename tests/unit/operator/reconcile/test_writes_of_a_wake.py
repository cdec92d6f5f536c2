"""What the operator writes to the API server while it wakes a model; the gateway adds the Lease."""

from __future__ import annotations

from datetime import timedelta

from testing.reconcile_harness import KEY, ReconcileHarness, SlowLoadServer
from whisper_cluster.api import DEPLOYMENTS, EVENTS
from whisper_operator.reconcile.requeue import POLL_MOVING
from whisper_operator.reconcile.status import BRIEF_LOAD

DEPLOYMENT = DEPLOYMENTS.path(KEY.namespace, KEY.name)
EVENT = EVENTS.path(KEY.namespace)
MOMENT = timedelta(milliseconds=50)


class Wake:
    """A model that demand wakes, with everything that the operator writes meanwhile."""

    def __init__(self) -> None:
        self.server = SlowLoadServer()
        self.harness = ReconcileHarness(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"})
        self.writes = self.harness.api.writes

    async def begin(self) -> None:
        """Wake the model from Zero; its load begins, and goes on until the test ends it."""
        await self.harness.reconcile()
        self.writes.clear()
        self.harness.renew(lasts=600)
        await self.look(again_for=timedelta(seconds=3))
        self.harness.start_pod()
        self.harness.server = self.server

    async def look(self, *, again_for: timedelta) -> None:
        """Reconcile when it is due, and at every event: a renewed Lease, a changed Deployment."""
        end = self.harness.now + again_for
        while self.harness.now < end:
            await self.harness.reconcile()
            self.harness.now = min(end, self.harness.now + MOMENT)

    async def end(self) -> None:
        """End the load."""
        self.server.may_end.set()
        await self.look(again_for=timedelta(seconds=5))


async def test_wake_with_a_brief_load_takes_five_writes() -> None:
    wake = Wake()
    await wake.begin()
    await wake.look(again_for=timedelta(seconds=1))
    await wake.end()
    print(wake.writes)
    assert wake.writes == [DEPLOYMENT, "Starting", EVENT, "Loaded", EVENT]
    assert wake.harness.status.last_load is not None


async def test_long_load_is_reported_as_one() -> None:
    wake = Wake()
    await wake.begin()
    await wake.look(again_for=timedelta(seconds=10))
    await wake.end()
    print(wake.writes)
    assert wake.writes == [DEPLOYMENT, "Starting", EVENT, "Loading", EVENT, "Loaded", EVENT]


async def test_long_load_is_reported_at_the_next_poll_though_no_event_comes() -> None:
    wake = Wake()
    await wake.begin()
    began = wake.harness.now
    while wake.harness.status.state == "Starting":
        check_at = await wake.harness.reconcile()
        assert check_at is not None
        wake.harness.now = max(check_at, wake.harness.now + MOMENT)
    assert wake.harness.now - began <= BRIEF_LOAD + 2 * POLL_MOVING


async def test_new_spec_during_the_load_is_reported_at_once() -> None:
    wake = Wake()
    await wake.begin()
    await wake.look(again_for=MOMENT)
    wake.harness.apply(replicas=2)
    await wake.look(again_for=2 * MOMENT)
    assert wake.harness.status.observed_generation == 2


async def test_failed_load_is_reported_at_once() -> None:
    wake = Wake()
    await wake.begin()
    await wake.look(again_for=MOMENT)
    wake.harness.show_pod(
        "base-1",
        phase="Running",
        podIP="10.0.0.7",
        containerStatuses=[{"name": "inference", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}],
    )
    await wake.look(again_for=2 * MOMENT)
    assert (wake.harness.status.state, wake.harness.condition("Degraded").reason) == ("Failed", "Crash")
