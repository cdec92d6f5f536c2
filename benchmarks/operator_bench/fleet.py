"""The environment of the operator's benchmarks: a real API server, the operator process, and many WhisperModels."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.operator_bench.audit import AuditLog, Model
from testing.api_server import HOW_TO_GET_THEM, ApiServer, binaries, running_api_server
from testing.live_model import stamp
from testing.operator_process import OperatorProcess, grant_leadership, grant_rights
from whisper_inference.worker.resident import resident_of

API = "/apis/audio-transcriber.io/v1alpha1"
LEASES = "/apis/coordination.k8s.io/v1"
MB = 1e6
_NAMESPACES = 10
_WRITERS = 4
"""Concurrent requests of the benchmarks, just enough to keep the API server busy."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One run of the benchmarks."""

    folder: Path
    """For files that benchmarks create."""
    quick: bool = False
    """Whether to run with a tenth of everything, to check that everything works."""

    def count(self, full: int) -> int:
        """Return the number to use, which is a tenth in a quick run."""
        return max(1, full // 10) if self.quick else full

    @contextmanager
    def cluster(self) -> Generator[ApiServer]:
        """Run an API server with the operator's permissions, and delete its data afterwards."""
        programs = binaries()
        if programs is None:
            raise RuntimeError(HOW_TO_GET_THEM)
        folder = self.folder / f"{time.time_ns()}"
        folder.mkdir(parents=True)
        with running_api_server(folder, programs) as api:
            grant_rights(api)
            grant_leadership(api, "default")
            yield api
        shutil.rmtree(folder)  # kept after a failure, with all logs


@dataclass
class Fleet:
    """Many WhisperModels, and the operator that manages them."""

    api: ApiServer
    operator: OperatorProcess
    models: Sequence[Model]
    """The models to create."""
    audit: AuditLog
    started_at: float = 0.0
    """When the operator was started, in seconds since 1970."""
    rss: list[float] = field(default_factory=list)
    """All measurements of the operator's resident memory, in MB."""

    def start(self) -> None:
        """Start the operator."""
        self.started_at = time.time()
        self.operator.start()

    @property
    def process(self) -> psutil.Process:
        assert self.operator.process is not None
        return psutil.Process(self.operator.process.pid)

    def measure_memory(self) -> float:
        """Measure the operator's resident memory in MB of a million bytes. Raises RuntimeError if it has exited."""
        held = resident_of(self.process.pid).resident / MB
        if not held:
            raise RuntimeError(f"the operator has exited; see its log: {self.operator.log}")
        self.rss.append(held)
        return held

    def cpu_seconds(self) -> float:
        """Return the CPU time that the operator has used so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    def apply_all(self, spec: Json, models: Iterable[Model] | None = None) -> None:
        """Apply one spec to many models concurrently."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(lambda model: self.apply(model, spec), self.models if models is None else models))

    def apply(self, model: Model, spec: Json) -> None:
        """Apply a model as administrator."""
        namespace, name = model
        metadata = {"namespace": namespace, "name": name}
        body = {"apiVersion": "audio-transcriber.io/v1alpha1", "kind": "WhisperModel", "metadata": metadata}
        self.api.apply(path_of(model), {**body, "spec": {"model": {"size": "tiny.en"}, **spec}})

    def demand(self, model: Model, *, seconds: int) -> None:
        """Signal demand for a model with a Lease, as a gateway does."""
        namespace, name = model
        metadata = {
            "namespace": namespace,
            "name": f"demand-{name}",
            "labels": {"audio-transcriber.io/whispermodel": name},
        }
        spec = {"holderIdentity": "gateway", "leaseDurationSeconds": seconds, "renewTime": stamp()}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        self.api.apply(f"{LEASES}/namespaces/{namespace}/leases/demand-{name}", body)

    def delete(self, model: Model) -> None:
        """Delete a model and its dependents, because the garbage collector may not be running."""
        namespace, name = model
        owned = [
            f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            f"/api/v1/namespaces/{namespace}/services/{name}",
        ]
        for path in (path_of(model), *owned, f"{LEASES}/namespaces/{namespace}/leases/demand-{name}"):
            self.api.client().delete(path)

    def statuses(self) -> dict[Model, Json]:
        """Return the current status of every model."""
        items = json.loads(self.api.client().get(f"{API}/whispermodels").content)["items"]
        return {(one["metadata"]["namespace"], one["metadata"]["name"]): one.get("status", {}) for one in items}

    def wait_for(self, condition: Callable[[Json], bool], description: str, *, seconds: float = 300.0) -> None:
        """Wait until a condition holds for every model's status. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while odd := [model for model, status in self.statuses().items() if not condition(status)]:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"timed out after {seconds:g} s: {description}; not true for {len(odd)} models, such as {odd[0]}"
                )
            time.sleep(0.5)


@contextmanager
def fleet(api: ApiServer, count: int, **settings: str) -> Generator[Fleet]:
    """Prepare an operator and models in ten namespaces, without starting the one or creating the others."""
    for number in range(_NAMESPACES):
        api.make_namespace(f"bench-{number}")
    models = [(f"bench-{number % _NAMESPACES}", f"model-{number:04}") for number in range(count)]
    operator = OperatorProcess(
        api, api.folder / "operator.log", {"WHISPER_OPERATOR_LEASE_NAMESPACE": "default"} | settings
    )
    prepared = Fleet(api, operator, models, AuditLog(api.audit_log))
    try:
        yield prepared
    finally:
        if operator.process is not None and operator.process.poll() is None:
            operator.stop()


def path_of(model: Model) -> str:
    namespace, name = model
    return f"{API}/namespaces/{namespace}/whispermodels/{name}"


def percentile(values: Sequence[float], share: int) -> float:
    """Return a percentile of the values. share: in percent."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else values[0]


def paced(things: Iterable[Model], action: Callable[[Model], None], *, every: float) -> None:
    """Apply an action to each thing at a steady pace. every: the interval in seconds."""
    due = time.monotonic()
    for thing in things:
        time.sleep(max(0.0, due - time.monotonic()))
        action(thing)
        due += every
