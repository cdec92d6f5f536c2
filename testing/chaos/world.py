"""A gateway, an operator and a few models that can be disturbed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from testing.api_server import ApiServer
from testing.gateway_process import GatewayProcess, running_gateway
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.operator_process import OperatorProcess, eventually, running_operator

_DISK = "48m"
_IDLE = {"unloadAfter": "1s", "scaleToZeroAfter": "2s"}
_SETTINGS = {"WHISPER_DRAIN": "2s"}


@dataclass
class SmallDisk:
    """A file system of its own, small enough to be filled."""

    folder: Path
    """Where it is mounted."""

    def fill(self) -> None:
        """Leave no byte."""
        with suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(bytes(65_536))

    def free(self) -> None:
        """Give the space back."""
        (self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk | None]:
    """Mount a small file system until the block ends; None: only root may."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode != 0:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], timeout=10, check=True)


@dataclass
class World:
    """What runs."""

    api: ApiServer
    """The API server, which can be stopped and started."""
    kubelet: Kubelet
    """Runs the pods."""
    operator: OperatorProcess
    """Reconciles the models."""
    gateway: GatewayProcess
    """Answers the clients."""
    models: Sequence[LiveModel]
    """The models, at zero in the beginning."""
    disk: SmallDisk | None
    """Where the gateway's data is; None: on a disk that must not be filled."""
    disturbances: int = 0
    """How often the gateway has been disturbed; odd while it is."""

    def disturb_gateway(self) -> None:
        """Excuse the gateway for what clients see from here on."""
        self.disturbances += 1 - self.disturbances % 2

    def restore(self) -> list[str]:
        """Restart what has ended by itself, and wait until the gateway is ready; return what had ended."""
        ended: list[str] = []
        deadline = time.monotonic() + 120
        while True:
            ended += self._restart_ended()
            if self.gateway.is_ready():
                break
            assert time.monotonic() < deadline, "the gateway did not become ready"
            time.sleep(0.05)
        self.disturbances += self.disturbances % 2
        return ended

    def _restart_ended(self) -> list[str]:
        ended: list[str] = []
        for name, one in (("gateway", self.gateway), ("operator", self.operator)):
            if one.process is not None and one.process.poll() is not None:
                ended.append(f"{name} exited by itself with {one.process.returncode}")
                one.start(wait=False) if isinstance(one, GatewayProcess) else one.start()
        return ended


@contextmanager
def running_world(
    api: ApiServer, kubelet: Kubelet, folder: Path, *, namespace: str, models: Sequence[str]
) -> Iterator[World]:
    """Run a gateway, an operator and models at zero in a namespace; the rights have been granted."""
    with (
        small_disk(folder / "gateway" / "data") as disk,
        running_operator(api, folder, namespace=namespace) as operator,
        running_gateway(api, folder / "gateway", namespace=namespace, **_SETTINGS) as gateway,
    ):
        live = [LiveModel(api, kubelet, namespace, name) for name in models]
        for model in live:
            model.apply(idle=_IDLE)
        for model in live:
            model.wait_for(state="Zero")
        eventually(lambda: _listed(gateway) >= {*models}, "the gateway knows the models")
        yield World(api, kubelet, operator, gateway, live, disk)


def _listed(gateway: GatewayProcess) -> set[str]:
    with gateway.client() as client, suppress(httpx.HTTPError):
        return {one["id"] for one in client.get("/v1/models").json()["data"]}
    return set()
