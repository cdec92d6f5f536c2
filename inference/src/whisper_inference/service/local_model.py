"""One model: its processes, their owner, and who hears of what happens to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

import structlog

from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import ServiceError
from whisper_inference.lifecycle.gpu import NvmlGpu
from whisper_inference.lifecycle.machine import Depth, Policy
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import Processes
from whisper_inference.lifecycle.receipts import LoadReceipt, UnloadReceipt
from whisper_inference.service.metrics import Metrics
from whisper_inference.settings import Settings
from whisper_inference.worker.host import Liveness, Zygote

log = structlog.stdlib.get_logger(__name__)


def _nobody() -> None:
    """Hear of it and do nothing."""


def _nobody_of_failure(_error: ServiceError) -> None:
    """Hear of it and do nothing."""


@dataclass(slots=True)
class Observer:
    """Tells the lifecycle's events to the metrics and to those who serve the waiting work."""

    metrics: Metrics
    on_loaded: Callable[[], None] = _nobody
    on_load_failed: Callable[[ServiceError], None] = _nobody_of_failure
    load_seconds: dict[Depth, float] = field(default_factory=dict[Depth, float])

    def loaded(self, receipt: LoadReceipt) -> None:
        """Remember how long it took: the next waiting client is told."""
        self.load_seconds[Depth.COLD if "import" in receipt.phases else Depth.WARM] = receipt.seconds
        self.metrics.loaded(receipt)
        self.on_loaded()

    def load_failed(self, error: ServiceError, trigger: str) -> None:
        """Let the waiting clients know."""
        log.error("model.load_failed", trigger=trigger, code=error.code, detail=str(error))
        self.metrics.load_failed(error, trigger)
        self.on_load_failed(error)

    def unloaded(self, receipt: UnloadReceipt) -> None:
        """Count it."""
        self.metrics.unloaded(receipt)

    def worker_died(self, cause: str) -> None:
        """Count it."""
        self.metrics.worker_died(cause)


@dataclass(frozen=True, slots=True)
class Model:
    """The parts around one model. version: of this package."""

    version: str
    metrics: Metrics
    gpu: NvmlGpu
    observer: Observer
    processes: Processes
    owner: LifecycleOwner

    def change(self, settings: Settings) -> None:
        """Have the next load bring the model of these settings, if it is another one."""
        spec = _spec(settings)
        if spec != self.processes.spec:
            log.info("model.changed", model=spec.size, engine=spec.engine)
            self.metrics.identity = (spec.size, spec.engine)
            self.observer.load_seconds.clear()
            self.owner.change_model(spec)


def make_model(settings: Settings, *, liveness: Liveness, zygote: Zygote | None) -> Model:
    """Return the parts around a zygote that was started before them, or around none yet."""
    package = version("whisper-inference")
    metrics = Metrics(version=package, model=settings.model, engine=settings.engine)
    gpu, observer = NvmlGpu(), Observer(metrics)
    processes = Processes(_spec(settings), gpu=gpu, liveness=liveness, zygote=zygote)
    unload_after = settings.unload_after.total_seconds() if settings.unload_after else None
    owner = LifecycleOwner(processes, policy=Policy(unload_after=unload_after), observer=observer)
    return Model(version=package, metrics=metrics, gpu=gpu, observer=observer, processes=processes, owner=owner)


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
