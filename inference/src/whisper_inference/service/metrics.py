"""Every metric of the inference server, by its one name; documented in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from whisper_inference.errors import ServiceError
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whisper_inference.service.request_metrics import JobMetrics, RequestMetrics
from whisper_inference.worker.resident import Resident
from whispermodel.states import ServerState, State

_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the gauges show at the instant of a scrape."""

    state: State
    """The model's state."""
    device: str
    """Where a loaded model is; none while it is not loaded."""
    memory: MemoryUsage
    """What the processes hold."""
    gpu_reserved_bytes: int
    """What the worker has reserved on the GPU."""
    last_activity: float
    """End of the last inference work, in seconds since 1970."""
    jobs: Mapping[str, int]
    """Stored jobs by status."""
    in_flight: int
    """Jobs being transcribed."""


class Metrics:
    """The server's series in a registry of their own. identity: model and engine."""

    def __init__(self, *, version: str, model: str, engine: str) -> None:
        disable_created_metrics()
        self._registry = registry = CollectorRegistry()
        self.identity = (model, engine)
        Gauge("whisper_build_info", "The running build.", ["version"], registry=registry).labels(version).set(1)
        self._info = Gauge("whisper_model_info", "The served model.", ["model", "engine", "device"], registry=registry)
        self._state = Gauge("whisper_model_state", "1 for the current state.", ["state"], registry=registry)
        self._lifecycle_families(registry)
        self._memory_families(registry)
        self._work_families(registry)
        self.requests = RequestMetrics(registry)
        self.jobs = JobMetrics(registry)

    def _lifecycle_families(self, registry: CollectorRegistry) -> None:
        self._loads = Counter("whisper_model_loads", "Loads.", ["result", "trigger"], registry=registry)
        self._unloads = Counter("whisper_model_unloads", "Unloads.", ["reason", "depth"], registry=registry)
        self._load_seconds = Histogram(
            "whisper_model_load_seconds", "Duration of loads, by phase.", ["phase"], buckets=_SHORT, registry=registry
        )
        self._unload_seconds = Histogram(
            "whisper_model_unload_seconds", "Duration of unloads.", buckets=_SHORT, registry=registry
        )
        self._restarts = Counter("whisper_worker_restarts", "Worker crashes.", ["cause"], registry=registry)

    def _memory_families(self, registry: CollectorRegistry) -> None:
        self._memory = Gauge(
            "whisper_memory_bytes", "Memory by process and kind.", ["process", "kind"], registry=registry
        )
        self._gpu_memory = Gauge("whisper_gpu_memory_bytes", "GPU memory.", ["kind"], registry=registry)
        self._freed = Counter("whisper_memory_freed_bytes", "Memory released by unloads.", ["kind"], registry=registry)
        self._residue = Gauge(
            "whisper_unload_residue_bytes", "Memory that the last unload did not release.", ["kind"], registry=registry
        )
        for kind in ("resident", "gpu"):
            # From the start on: an increase from nothing is no increase to Prometheus.
            self._freed.labels(kind)

    def _work_families(self, registry: CollectorRegistry) -> None:
        self._activity = Gauge(
            "whisper_last_activity_timestamp_seconds", "When inference work last ended.", registry=registry
        )
        self._jobs = Gauge("whisper_jobs", "Stored jobs.", ["status"], registry=registry)
        self._in_flight = Gauge("whisper_jobs_in_flight", "Jobs being transcribed.", registry=registry)

    def loaded(self, receipt: LoadReceipt) -> None:
        """Count a load."""
        self._loads.labels("success", receipt.trigger).inc()
        self._load_seconds.labels("total").observe(receipt.seconds)
        for phase, seconds in receipt.phases.items():
            self._load_seconds.labels(phase).observe(seconds)

    def load_failed(self, error: ServiceError, trigger: str) -> None:
        """Count a load that failed."""
        self._loads.labels(error.code, trigger).inc()

    def unloaded(self, receipt: UnloadReceipt) -> None:
        """Count an unload and the memory that it released."""
        self._unloads.labels(receipt.reason, receipt.depth).inc()
        self._unload_seconds.observe(receipt.seconds)
        self._freed.labels("resident").inc(receipt.freed_ram_bytes)
        self._freed.labels("gpu").inc(receipt.freed_gpu_bytes)
        self._residue.labels("resident").set(receipt.residue_ram_bytes)
        self._residue.labels("gpu").set(receipt.residue_gpu_bytes)

    def worker_died(self, cause: str) -> None:
        """Count a worker that ended by itself."""
        self._restarts.labels(cause).inc()

    def exposition(self, gauges: Gauges) -> bytes:
        """Return all series in Prometheus' text format."""
        self._info.clear()
        self._info.labels(*self.identity, gauges.device).set(1)
        for state in get_args(ServerState):
            self._state.labels(state).set(state is gauges.state)
        memory = gauges.memory
        for process, held in (("api", memory.api), ("zygote", memory.zygote), ("worker", memory.worker)):
            self._show_memory(process, held)
        self._gpu_memory.labels("used").set(memory.gpu_used_bytes)
        self._gpu_memory.labels("reserved").set(gauges.gpu_reserved_bytes)
        self._activity.set(gauges.last_activity)
        for status, count in gauges.jobs.items():
            self._jobs.labels(status).set(count)
        self._in_flight.set(gauges.in_flight)
        return generate_latest(self._registry)

    def _show_memory(self, process: str, held: Resident) -> None:
        for kind in ("resident", "proportional", "anonymous", "file"):
            self._memory.labels(process, kind).set(getattr(held, kind))
