"""The local model: its processes, their owner, and its observer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

import structlog

from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import ServiceError
from whisper_inference.jobs.job import LOCAL
from whisper_inference.lifecycle.gpu import NvmlGpu
from whisper_inference.lifecycle.machine import Policy
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import MemoryUsage, Processes
from whisper_inference.model_control import LoadOutcome, LoadOutcomes, LoadReceipt, UnloadReceipt
from whisper_inference.service.metrics import Metrics
from whisper_inference.service.shared_call import SharedCall
from whisper_inference.settings import Settings
from whisper_inference.worker.supervisor import Liveness, Zygote
from whispermodel.states import Depth

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class ModelObserver:
    """Passes the lifecycle's events on to the metrics, and the outcomes of loads to the job queue."""

    metrics: Metrics
    loads: LoadOutcomes
    load_seconds: dict[Depth, float] = field(default_factory=dict[Depth, float])

    def loaded(self, receipt: LoadReceipt) -> None:
        """Remember how long it took, for the estimates of later loads."""
        self.load_seconds[Depth.COLD if "import" in receipt.phases else Depth.WARM] = receipt.seconds
        self.metrics.loaded(receipt)
        self.loads.put_nowait(LoadOutcome(LOCAL))

    def load_failed(self, error: ServiceError, trigger: str) -> None:
        """Report the failure to the job queue."""
        log.error("model.load_failed", trigger=trigger, code=error.code, detail=str(error))
        self.metrics.load_failed(error, trigger)
        self.loads.put_nowait(LoadOutcome(LOCAL, error))

    def unloaded(self, receipt: UnloadReceipt) -> None:
        """Count it."""
        self.metrics.unloaded(receipt)

    def worker_died(self, cause: str) -> None:
        """Count it."""
        self.metrics.worker_died(cause)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """The parts around one model."""

    version: str
    """Of this package."""
    metrics: Metrics
    """Where everything is counted."""
    gpu: NvmlGpu
    """Reads the GPU without opening CUDA."""
    observer: ModelObserver
    """Remembers how long loads took."""
    loads: LoadOutcomes
    """How the loads ended, for the job queue."""
    owner: LifecycleOwner
    """Loads and unloads."""
    measure: SharedCall[MemoryUsage]
    """Measures what the processes hold; many may ask at once, with or without a key."""

    def change(self, settings: Settings) -> None:
        """Make the next load bring the model of these settings, if it is another one."""
        spec = _spec(settings)
        if spec != self.owner.spec:
            log.info("model.changed", model=spec.size, engine=spec.engine)
            self.metrics.identity = (spec.size, spec.engine)
            self.observer.load_seconds.clear()
            self.owner.change_model(spec)


def make_model(settings: Settings, *, liveness: Liveness, zygote: Zygote | None) -> LocalModel:
    """Build the parts, around a zygote if one was started before them."""
    package = version("whisper-inference")
    metrics = Metrics(version=package, model=settings.model, engine=settings.engine)
    gpu, loads = NvmlGpu(), LoadOutcomes()
    observer = ModelObserver(metrics, loads)

    def processes(on_zygote_lost: Callable[[], None]) -> Processes:
        spec = _spec(settings)
        return Processes(spec, gpu=gpu, liveness=liveness, zygote=zygote, on_zygote_lost=on_zygote_lost)

    unload_after = settings.unload_after.total_seconds() if settings.unload_after else None
    owner = LifecycleOwner(processes, policy=Policy(unload_after=unload_after), observer=observer)
    return LocalModel(
        version=package,
        metrics=metrics,
        gpu=gpu,
        observer=observer,
        loads=loads,
        owner=owner,
        measure=SharedCall(owner.measure),
    )


def _spec(settings: Settings) -> ModelSpec:
    return ModelSpec(
        size=settings.model,
        engine=settings.engine,
        cache_dir=str(settings.cache_dir),
        device=settings.device,
        compute_type=settings.compute_type,
        path=str(settings.model_path) if settings.model_path else None,
        sha256=settings.model_sha256,
    )
