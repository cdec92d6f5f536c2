"""The faults: each is in effect for a block, and healed at its end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from random import Random

import httpx

from testing.chaos.world import World
from testing.gateway_process import GatewayProcess
from testing.operator_process import OperatorProcess
from testing.pod_stand_in import PodServer
from whisper_inference.execution import Lost


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a part of the world."""

    name: str
    """What happens."""
    victim: str
    """To which part; two faults at once have different victims."""
    during: Callable[[World, Random], AbstractContextManager[None]]
    """Is in effect for a block."""
    share: int = 1
    """How often it is chosen, compared with the others."""


@contextmanager
def _gateway_ended(world: World, how: signal.Signals) -> Generator[None]:
    world.disturb_gateway()
    _end(world.gateway, how)
    try:
        yield
    finally:
        world.gateway.start(wait=False)


@contextmanager
def _gateway_paused(world: World, _: Random) -> Generator[None]:
    world.disturb_gateway()
    with _stopped(world.gateway.process):
        yield


@contextmanager
def _operator_ended(world: World, how: signal.Signals) -> Generator[None]:
    _end(world.operator, how)
    try:
        yield
    finally:
        world.operator.start()


@contextmanager
def _operator_paused(world: World, _: Random) -> Generator[None]:
    with _stopped(world.operator.process):
        yield


@contextmanager
def _api_server_killed(world: World, _: Random) -> Generator[None]:
    world.api.stop(signal.SIGKILL)
    try:
        yield
    finally:
        world.api.start()


@contextmanager
def _api_server_paused(world: World, _: Random) -> Generator[None]:
    with _stopped(world.api.server.process):
        yield


@contextmanager
def _pod_crashed(world: World, random: Random) -> Generator[None]:
    if name := _some_pod(world, random):
        world.kubelet.do(world.kubelet.crash(name))
    yield


@contextmanager
def _pod_deleted(world: World, random: Random) -> Generator[None]:
    if name := _some_pod(world, random):
        path = f"/api/v1/namespaces/{world.models[0].namespace}/pods/{name}"
        # The API server may be away: then nobody deletes pods.
        with suppress(httpx.HTTPError):
            world.api.client().delete(path, timeout=2)
    yield


@contextmanager
def _pod_paused(world: World, random: Random) -> Generator[None]:
    name = _some_pod(world, random)
    server = world.kubelet.pods.get(name) if name else None
    if server is not None:
        server.pause()
    try:
        yield
    finally:
        if server is not None:
            server.resume()


@contextmanager
def _workers_crash(world: World, _: Random) -> Generator[None]:
    """Crash the worker of each job after its first section, in the pods that run now."""
    servers = [*world.kubelet.pods.values()]
    for server in servers:
        if isinstance(server, PodServer):
            server.execute.ends_after, server.execute.ends_by = 1, Lost("crash", "killed by signal SIGKILL")
        else:
            server.kill_workers()
    try:
        yield
    finally:
        for server in servers:
            if isinstance(server, PodServer):
                server.execute.ends_after = None


@contextmanager
def _disk_full(world: World, _: Random) -> Generator[None]:
    if world.disk is not None:
        world.disk.fill()
    try:
        yield
    finally:
        if world.disk is not None:
            world.disk.free()


def _ended_by(
    during: Callable[[World, signal.Signals], AbstractContextManager[None]], how: signal.Signals
) -> Callable[[World, Random], AbstractContextManager[None]]:
    return lambda world, _: during(world, how)


FAULTS = (
    Fault("gateway killed", "gateway", _ended_by(_gateway_ended, signal.SIGKILL), share=3),
    Fault("gateway replaced", "gateway", _ended_by(_gateway_ended, signal.SIGTERM)),
    Fault("gateway paused", "gateway", _gateway_paused),
    Fault("operator killed", "operator", _ended_by(_operator_ended, signal.SIGKILL)),
    Fault("operator paused", "operator", _operator_paused),
    Fault("API server killed", "API server", _api_server_killed),
    Fault("API server paused", "API server", _api_server_paused),
    Fault("pod crashed", "pod", _pod_crashed, share=2),
    Fault("pod deleted", "pod", _pod_deleted, share=2),
    Fault("pod paused", "pod", _pod_paused, share=2),
    Fault("workers crash", "workers", _workers_crash, share=2),
    Fault("disk full", "disk", _disk_full),
)


def chosen(random: Random, *, most: int = 2) -> list[Fault]:
    """Return one fault or more, with different victims."""
    found: dict[str, Fault] = {}
    for _ in range(random.randint(1, most)):
        [fault] = random.choices(FAULTS, [fault.share for fault in FAULTS])
        found.setdefault(fault.victim, fault)
    return list(found.values())


def _some_pod(world: World, random: Random) -> str | None:
    names = sorted(world.kubelet.pods)
    return random.choice(names) if names else None


def _end(one: GatewayProcess | OperatorProcess, how: signal.Signals) -> None:
    """End a process, unless it has exited by itself."""
    if one.process is not None and one.process.poll() is None:
        one.stop(how)


@contextmanager
def _stopped(process: subprocess.Popen[bytes] | None) -> Generator[None]:
    """Stop a process for the block; one that has ended stays so."""
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
