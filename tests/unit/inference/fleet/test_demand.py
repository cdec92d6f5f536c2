"""What is declared about a model while requests and jobs need it, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from whisper_cluster.errors import ClusterError
from whisper_inference.fleet.demand import BRIDGE_SECONDS, Declaration, Demand
from whispermodel.key import Key
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Mode

MODEL = Key("speech", "base")


@dataclass
class Declared:
    """Takes the declarations, slowly; some fail first. Counts wakes too."""

    seen: list[Declaration] = field(default_factory=list)
    failures: int = 0
    results: list[str] = field(default_factory=list)

    async def declare(self, key: Key, declaration: Declaration) -> None:
        await asyncio.sleep(0.02)
        if self.failures:
            self.failures -= 1
            raise ClusterError("apply", code=0, reason="connection refused")
        self.seen.append(declaration)

    def woken(self, key: Key, seconds: float) -> None:
        assert seconds >= 0
        self.results.append("served")

    def wake_abandoned(self, key: Key) -> None:
        self.results.append("abandoned")

    def wake_failed(self, key: Key) -> None:
        self.results.append("failed")

    @property
    def kinds(self) -> list[str]:
        """Return what each declaration says: demand, its end, or that there was none that counts."""
        return [_kind(one) for one in self.seen]


def _kind(declaration: Declaration) -> str:
    if declaration.renewed_at is None:
        return "none"
    return "end" if declaration.seconds == 1 else "demand"


def demand_to(declared: Declared, *, failing: bool = False) -> Demand:
    return Demand(
        declares=declared,
        is_serving=lambda _key: False,
        is_failing=lambda _key: failing,
        metrics=declared,
        linger_seconds=0.2,
    )


async def until(fact: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(10):
            while not fact():  # noqa: ASYNC110 (a list)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


async def test_job_that_follows_its_upload_is_one_demand() -> None:
    declared = Declared()
    demand = demand_to(declared)
    with demand.hold(MODEL):
        await until(lambda: declared.seen, "the demand is declared")
    await asyncio.sleep(0.05)
    with demand.hold(MODEL):
        demand.note_served(MODEL)
    await until(lambda: len(declared.seen) > 1, "its end is declared")
    assert declared.kinds == ["demand", "end"]
    assert declared.results == ["served"]


async def test_demand_that_no_pod_served_is_taken_back() -> None:
    for failing, result in ((False, "abandoned"), (True, "failed")):
        declared = Declared()
        demand = demand_to(declared, failing=failing)
        with demand.hold(MODEL):
            await until(lambda declared=declared: declared.seen, "the demand is declared")
        await until(lambda declared=declared: len(declared.seen) > 1, "it is taken back")
        assert declared.kinds == ["demand", "none"]
        assert declared.results == [result]


async def test_requests_that_follow_each_other_need_no_write_each() -> None:
    declared = Declared()
    demand = demand_to(declared)
    for _ in range(5):
        with demand.hold(MODEL):
            demand.note_served(MODEL)
            await asyncio.sleep(0.03)
    assert declared.kinds == ["demand"]


async def test_declaration_that_failed_is_repeated() -> None:
    declared = Declared(failures=2)
    demand = demand_to(declared)
    with demand.hold(MODEL):
        await until(lambda: declared.seen, "the demand is declared")
    await demand.stop()


async def test_new_demand_while_the_end_is_declared_is_declared_after_it() -> None:
    declared = Declared()
    demand = demand_to(declared)
    with demand.hold(MODEL):
        await until(lambda: declared.seen, "the demand is declared")
    # Its end is being declared now.
    await asyncio.sleep(BRIDGE_SECONDS + 0.01)
    with demand.hold(MODEL):
        await until(lambda: declared.kinds[-1] == "demand" and len(declared.seen) >= 2, "the new demand is declared")
    await demand.stop()


async def test_manual_command_is_declared_at_once() -> None:
    declared = Declared()
    demand = demand_to(declared)
    command = ManualCommand(Mode.UNLOADED, datetime.now(UTC))
    demand.command(MODEL, command)
    await until(lambda: declared.seen, "the command is declared")
    assert (declared.kinds, declared.seen[0].manual) == (["none"], command)
    assert declared.results == []
    later = ManualCommand(Mode.LOADED, datetime.now(UTC))
    with demand.hold(MODEL):
        await until(lambda: len(declared.seen) == 2, "the demand is declared")
        demand.command(MODEL, later)
        await until(lambda: len(declared.seen) == 3, "the later command is declared")
    assert declared.seen[-1].manual == later
    await demand.stop()
