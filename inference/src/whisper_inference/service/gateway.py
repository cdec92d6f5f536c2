"""The composition root of the gateway: the same jobs and routes as a server's, over a fleet of WhisperModels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from whisper_inference.audio.probe import AudioProbe
from whisper_inference.errors import ServiceError
from whisper_inference.fleet.control import FleetControl
from whisper_inference.fleet.demand import LINGER_SECONDS, Declares, Demand
from whisper_inference.fleet.executor import FleetExecutor, OpenSlot, Prepare, nothing_to_prepare
from whisper_inference.fleet.fleet import Fleet
from whisper_inference.fleet.metrics import NOTHING_PENDING, GatewayMetrics, Pending
from whisper_inference.fleet.models import FleetModels
from whisper_inference.fleet.pod_pool import PodPool
from whisper_inference.fleet.reported import cause_of
from whisper_inference.fleet.settings import GatewaySettings
from whisper_inference.jobs.background import cancel_and_wait
from whisper_inference.jobs.events import EventHub, Phase, PhaseChanged, phase_of
from whisper_inference.jobs.limits import Limits
from whisper_inference.jobs.model_queue import ModelQueue
from whisper_inference.jobs.service import JobService
from whisper_inference.model_control import LoadOutcome, LoadOutcomes
from whisper_inference.service.probes import ProbeFinding
from whisper_inference.service.request_metrics import JobMetrics, RequestMetrics
from whisper_inference.service.shared_call import SharedCall
from whisper_inference.service.stored_jobs import STORE_OUTCOME_SECONDS, StoredJobs, limits_of, now
from whisper_inference.worker.resident import trim_heap, trim_idle_memory
from whispermodel.key import Key
from whispermodel.states import State

_DRAIN_POLL_SECONDS = 0.2
_QUIET_SECONDS = 1.0
"""After the last upload: a client that sends one file after another must not cause a trim for each."""


@dataclass(frozen=True, slots=True)
class GatewayRegistry:
    """All series of a gateway."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    """Where they are."""

    def families(self) -> tuple[RequestMetrics, JobMetrics, GatewayMetrics]:
        """Return the families of requests, of jobs, and of the gateway's own."""
        build = Gauge("whisper_build_info", "The running build.", ["version"], registry=self.registry)
        build.labels(version("whisper-inference")).set(1)
        return RequestMetrics(self.registry), JobMetrics(self.registry), GatewayMetrics(self.registry)


class Source(Protocol):
    """Keeps the fleet up to date: a watch of the cluster, or what runs the models of this machine."""

    @property
    def synced(self) -> asyncio.Event: ...
    async def run(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Gateway:
    """A running gateway."""

    version: str
    """Of this package."""
    settings: GatewaySettings
    """As at the start."""
    stored: StoredJobs
    """The jobs."""
    jobs: JobService
    """The jobs as the API sees them."""
    fleet: Fleet
    """The models and pods."""
    models: FleetModels
    """The models as requests name them."""
    executor: FleetExecutor
    """Runs jobs on pods."""
    sources: tuple[Source, ...]
    """Keep the fleet up to date."""
    pool: PodPool
    """Which pods are free."""
    demand: Demand
    """What the models are needed for."""
    requests: RequestMetrics
    """Where requests are counted."""
    own: GatewayMetrics
    """The metrics of the gateway's own."""
    registry: CollectorRegistry
    """All metrics."""

    @property
    def knows_models(self) -> bool:
        """Whether the list of models has arrived."""
        return all(source.synced.is_set() for source in self.sources)

    def loaded(self) -> bool:
        """Return whether a model is in memory."""
        return any(model.status.state is State.LOADED for model in self.fleet.all())

    def ready(self) -> ProbeFinding:
        """Return whether work is accepted."""
        if not self.jobs.accepting:
            return ProbeFinding("stopping", "The gateway is shutting down.", passed=False)
        return self.started()

    def started(self) -> ProbeFinding:
        """Return whether the models are known; they stay known while the API server is away."""
        if self.knows_models:
            return ProbeFinding("ok")
        return ProbeFinding("starting", "Waiting for the list of WhisperModels and pods.", passed=False)

    @property
    def accepting(self) -> bool:
        """Whether new work is let in."""
        return self.jobs.accepting

    @property
    def drains_for(self) -> timedelta:
        """How long its end may take."""
        return self.settings.drain

    def stop_accepting(self) -> None:
        """Refuse new work from now on."""
        self.jobs.stop_accepting()

    async def drain(self) -> None:
        """Wait until running jobs and uploads have ended, at most for WHISPER_DRAIN.

        What is queued continues after the next start: it may wait for a pod for long.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain.total_seconds()):
                while self.jobs.arrivals or self.jobs.dispatcher.running:  # noqa: ASYNC110 (two counters)
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
                await self.jobs.unfetched.all_fetched()

    async def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        quota = self.stored.spool.quota
        pending = dict.fromkeys(self.fleet.models.keys(), NOTHING_PENDING) | await self._pending()
        self.own.show(pending, stored_bytes=await quota.stored_bytes(), limit_bytes=quota.limit_bytes)
        return generate_latest(self.registry)

    async def _pending(self) -> dict[Key, Pending]:
        at, pending = now(), await self.stored.store.pending()
        return {
            key: Pending(one.jobs, one.stored_bytes, max(0.0, (at - one.oldest).total_seconds()))
            for key, one in pending.items()
        }


@asynccontextmanager
async def serving(gateway: Gateway) -> AsyncGenerator[Gateway]:
    """Run the loops of a gateway; leaving the block puts running jobs back into the queue, and closes the store."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(gateway.stored.store.database.close)
        await gateway.stored.recover(executors_live_on=True)
        loops = [
            _dispatch(gateway),
            _trim_memory(gateway.jobs),
            gateway.stored.sweep(gateway.settings.job_retention),
            *(source.run() for source in gateway.sources),
        ]
        for loop in loops:
            stack.push_async_callback(cancel_and_wait, asyncio.create_task(loop))
        try:
            yield gateway
        finally:
            gateway.executor.stop()
            await gateway.jobs.dispatcher.settled(STORE_OUTCOME_SECONDS)
            await gateway.demand.stop()


async def _dispatch(gateway: Gateway) -> None:
    """Run the stored jobs once the models are known: demand for an unknown model cannot be declared."""
    for source in gateway.sources:
        await source.synced.wait()  # No deadline: the API server may be away for long.
    await gateway.jobs.dispatcher.run()


async def _trim_memory(jobs: JobService) -> None:
    """Return to the kernel what the start took, and later what many uploads took at once; malloc would keep it."""
    await asyncio.to_thread(trim_idle_memory)
    while True:
        await jobs.uploads_ended()
        await asyncio.sleep(_QUIET_SECONDS)
        if not jobs.arrivals:
            await asyncio.to_thread(trim_heap)


def make_gateway(
    settings: GatewaySettings,
    fleet: Fleet,
    *,
    declares: Declares,
    open_slot: Callable[[StoredJobs], OpenSlot],
    prepare: Prepare = nothing_to_prepare,
    linger_seconds: float = LINGER_SECONDS,
) -> Gateway:
    """Return a gateway to a fleet; its sources are still to be set.

    declares: where demand is made known. open_slot: connects to pods. Raises StorageUnusable.
    """
    metrics = GatewayRegistry()
    requests, job_metrics, own = metrics.families()
    stored, loads = StoredJobs.open(settings), LoadOutcomes()
    demand = Demand(
        declares=declares,
        is_serving=lambda key: bool(fleet.serving(key)),
        is_failing=lambda key: (model := fleet.get(key)) is not None and cause_of(model) is not None,
        metrics=own,
        linger_seconds=linger_seconds,
    )
    executor = FleetExecutor(
        fleet=fleet,
        pool=(pool := PodPool(fleet)),
        demand=demand,
        open_slot=open_slot(stored),
        prepare=prepare,
        loads=loads,
        metrics=own,
    )
    dispatcher = stored.dispatcher(executor, loads, metrics=job_metrics, max_audio_seconds=settings.max_audio_seconds)
    jobs = stored.service(dispatcher, retry_window=settings.retry_window)
    models = FleetModels(
        fleet=fleet,
        own_namespace=settings.namespace,
        limits=limits_of(settings),
        make_queue=_Queues(jobs, executor, AudioProbe()),
        stored_limits=stored.spool.quota.model_limits,
        is_known=lambda: gateway.knows_models,
    )
    fleet.on_change = _Reporter(fleet, models, loads, own, stored.hub).note_change
    gateway = Gateway(
        version=version("whisper-inference"),
        settings=settings,
        stored=stored,
        jobs=jobs,
        fleet=fleet,
        models=models,
        executor=executor,
        sources=(),
        pool=pool,
        demand=demand,
        requests=requests,
        own=own,
        registry=metrics.registry,
    )
    return gateway


@dataclass(frozen=True, slots=True)
class _Queues:
    """Makes the queue of a model."""

    jobs: JobService
    executor: FleetExecutor
    probe: AudioProbe

    def __call__(self, key: Key, limits: Limits) -> ModelQueue:
        executor, jobs = self.executor, self.jobs
        control = FleetControl(key, executor.fleet, executor.demand, executor.force)
        counts = SharedCall(lambda: jobs.store.counts(key))
        return ModelQueue(
            key=key, model=control, jobs=jobs, probe=self.probe, limits=limits, counts=counts, in_pods=True
        )


@dataclass(slots=True)
class _Reporter:
    """Reports which models there are to the metrics, and what keeps them away to the job queue."""

    fleet: Fleet
    models: FleetModels
    loads: LoadOutcomes
    metrics: GatewayMetrics
    hub: EventHub
    _phases: dict[Key, Phase] = field(default_factory=dict[Key, Phase])
    _causes: dict[Key, tuple[str, str] | None] = field(default_factory=dict[Key, tuple[str, str] | None])

    def note_change(self, key: Key) -> None:
        """Report what has changed of a model."""
        model = self.fleet.get(key)
        if model is None:
            if key in self._causes:
                del self._causes[key], self._phases[key]
                self.metrics.model_deleted(key)
                self.models.forget(key)
            return
        if key not in self._causes:
            self._causes[key] = None
            self.metrics.model_added(key)
        phase = phase_of(model.status.state or State.ZERO)
        if self._phases.get(key) is not phase:
            self._phases[key] = phase
            self.hub.publish_to_all(key, PhaseChanged(phase))
        cause = cause_of(model)
        if self._causes[key] != (known := _identity(cause)):
            self._causes[key] = known
            self.loads.put_nowait(LoadOutcome(key, cause))


def _identity(cause: ServiceError | None) -> tuple[str, str] | None:
    return (cause.code, str(cause)) if cause else None
