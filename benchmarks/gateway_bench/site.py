"""The environment of the gateway's benchmarks: a real API server, the operator, the gateway, and servers as pods."""

from __future__ import annotations

import base64
import io
import os
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from benchmarks.operator_bench.audit import AuditLog
from testing.api_server import HOW_TO_GET_THEM, ApiServer, binaries, running_api_server, running_controllers
from testing.gateway_process import GatewayProcess, grant_gateway_rights, running_gateway
from testing.kubelet_stand_in import Kubelet, running_kubelet
from testing.live_model import LiveModel
from testing.operator_process import OperatorProcess, grant_rights, running_operator
from whisper_inference.worker.resident import resident_of

MB = 1e6
SHORTEST_IDLE = {"unloadAfter": "1s", "scaleToZeroAfter": "1s"}
_NAMESPACE = "bench"


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One run of the benchmarks."""

    folder: Path
    """For files that benchmarks create."""
    quick: bool = False
    """Whether to run with a tenth of everything, to check that everything works."""

    def count(self, full: int) -> int:
        """Return the number to use, which is a tenth in a quick run."""
        return max(2, full // 10) if self.quick else full

    @property
    def audio(self) -> Path:
        """Return the folder for audio."""
        folder = self.folder / "audio"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True, slots=True)
class Site:
    """What runs."""

    api: ApiServer
    """The API server."""
    kubelet: Kubelet
    """Runs the pods."""
    operator: OperatorProcess
    """Reconciles the models."""
    gateway: GatewayProcess
    """What is measured."""
    audit: AuditLog
    """Who wrote what, and when."""
    namespace: str
    """Where the models are."""

    def model(self, name: str, **spec: object) -> LiveModel:
        """Apply a model, and wait until the gateway knows it."""
        model = LiveModel(self.api, self.kubelet, self.namespace, name)
        model.apply(**spec)
        deadline = time.monotonic() + 60
        while name not in self.known():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gateway does not know {name}")
            time.sleep(0.05)
        return model

    def known(self) -> Sequence[str]:
        """Return the names of the models that the gateway lists."""
        with self.gateway.client() as client:
            return [one["id"] for one in client.get("/v1/models").raise_for_status().json()["data"]]

    def pod_key(self) -> str:
        """Return the key to the pods."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets/whisper-operator-keys"
        entry: str = self.api.client().get(path).raise_for_status().json()["data"]["operator"]
        return base64.b64decode(entry).decode().strip()

    def rss(self) -> float:
        """Return the gateway's resident memory in MB of a million bytes."""
        return _rss(self.gateway)

    def operator_rss(self) -> float:
        """Return the operator's resident memory in MB of a million bytes."""
        return _rss(self.operator)

    @contextmanager
    def on_one_core(self) -> Generator[None]:
        """Leave the gateway a single core during the block."""
        assert self.gateway.process is not None
        pid, everywhere = self.gateway.process.pid, os.sched_getaffinity(0)
        for thread in _threads(pid):
            os.sched_setaffinity(thread, {min(everywhere)})
        try:
            yield
        finally:
            for thread in _threads(pid):
                os.sched_setaffinity(thread, everywhere)


@contextmanager
def running_site(bench: BenchRun, **settings: str) -> Generator[Site]:
    """Run everything until the block ends. settings: the gateway's, without WHISPER_."""
    programs = binaries()
    if programs is None:
        raise RuntimeError(HOW_TO_GET_THEM)
    folder = bench.folder / f"{time.time_ns()}"
    folder.mkdir(parents=True)
    given = {f"WHISPER_{name}": value for name, value in settings.items()}
    with _closed_quietly() as running:
        api = running.enter_context(running_api_server(folder, programs))
        running.enter_context(running_controllers(api))
        kubelet = running.enter_context(running_kubelet(api))
        grant_rights(api)
        grant_gateway_rights(api)
        namespace = api.make_namespace(_NAMESPACE)
        operator = running.enter_context(running_operator(api, folder, namespace=namespace))
        gateway = running.enter_context(running_gateway(api, folder / "gateway", namespace=namespace, **given))
        yield Site(api, kubelet, operator, gateway, AuditLog(api.audit_log), namespace)
    shutil.rmtree(folder)  # kept after a failure, with all logs


@contextmanager
def _closed_quietly() -> Generator[ExitStack]:
    """Lend a stack of contexts; what they print at their end, for tests, is dropped."""
    running = ExitStack()
    try:
        yield running
    finally:
        with redirect_stdout(io.StringIO()):
            running.close()


def _rss(one: GatewayProcess | OperatorProcess) -> float:
    assert one.process is not None
    return resident_of(one.process.pid).resident / MB


def _threads(pid: int) -> list[int]:
    return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
