"""The composition root: builds the server's parts from its settings, starts them in order, and ends them in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from whisper_inference.audio.probe import AudioProbe
from whisper_inference.jobs.background import cancel_and_wait
from whisper_inference.jobs.dispatcher import Dispatcher
from whisper_inference.jobs.job import LOCAL, Status
from whisper_inference.jobs.limits import Limits
from whisper_inference.jobs.model_queue import ModelQueue
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.service.executions import Executions
from whisper_inference.service.local_control import LocalModelControl
from whisper_inference.service.local_executor import LocalExecutor
from whisper_inference.service.local_model import LocalModel
from whisper_inference.service.server import Server
from whisper_inference.service.shared_call import SharedCall
from whisper_inference.service.shutdown import log_unfinished_jobs
from whisper_inference.service.stored_jobs import STORE_OUTCOME_SECONDS, StoredJobs, limits_of
from whisper_inference.settings import Settings

if TYPE_CHECKING:
    # Imported for real only with a model file: schedules cost time at the start.
    from whisper_inference.standalone.controller import Controller
    from whisper_inference.standalone.watch import ModelFile


@asynccontextmanager
async def running_server(
    settings: Settings,
    model: LocalModel,
    *,
    model_file: ModelFile | None = None,
    show: Callable[[str], None] | None = None,
) -> AsyncGenerator[Server]:
    """Run the parts around a model; leaving the block ends the model's processes and closes the store.

    model_file: the file that these settings were taken from. show: prints the model's table after a transition. The
    caller holds the data folder's lock. Raises DataFolderTooNew, StorageUnusable.
    """
    async with AsyncExitStack() as stack:
        stack.push_async_callback(model.owner.stop)
        parts = _parts(settings, model)
        stack.push_async_callback(parts.stored.store.database.close)
        controller = _controller(parts, model_file, show=show)
        control = LocalModelControl(model, controller=controller)
        queue = _model_queue(parts, control, retry_window=settings.retry_window)
        starting = asyncio.create_task(control.start(preload=settings.preload_model))
        stack.push_async_callback(cancel_and_wait, starting)
        await parts.stored.recover()
        for loop in (parts.dispatcher.run(), parts.stored.sweep(settings.job_retention)):
            stack.push_async_callback(cancel_and_wait, asyncio.create_task(loop))
        if controller is not None:
            # The first decision is made before the first request is let in: it may be to refuse it.
            await controller.begin()
            stack.push_async_callback(cancel_and_wait, asyncio.create_task(controller.run()))
        try:
            yield Server(settings, model, queue=queue, executions=_executions(parts, control))
        finally:
            # The worker's end puts its job back into the queue; the dispatcher must have stored that before it ends.
            await model.owner.stop()
            await parts.dispatcher.settled(STORE_OUTCOME_SECONDS)
            await log_unfinished_jobs(parts.stored.store, owner=model.owner, data_dir=settings.data_dir)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the job service and the controller of a model file are built on."""

    model: LocalModel
    """The processes of the model."""
    stored: StoredJobs
    """The jobs."""
    executor: LocalExecutor
    """Lends the worker."""
    dispatcher: Dispatcher
    """Runs the queued jobs."""
    limits: Limits
    """What clients may ask for."""
    counts: SharedCall[dict[Status, int]]
    """The numbers of jobs by status."""

    @property
    def owner(self) -> LifecycleOwner:
        """Loads and unloads the model."""
        return self.model.owner

    async def queued(self) -> int:
        """Return how many jobs wait."""
        return (await self.counts())[Status.QUEUED]

    async def measure(self) -> MemoryUsage:
        """Return what the processes hold now."""
        return await self.model.measure()

    def configure(self, settings: Settings) -> None:
        """Apply other settings: another model is loaded after the running job, and new limits hold at once."""
        self.limits.max_waiting = settings.max_waiting
        self.limits.max_wait = settings.max_wait
        self.limits.max_audio_bytes = settings.max_audio_bytes
        self.stored.spool.quota.limit_bytes = settings.max_stored_bytes
        self.model.change(settings)


def _parts(settings: Settings, model: LocalModel) -> _Parts:
    stored = StoredJobs.open(settings)
    executor = LocalExecutor(model.owner, spool=stored.spool, fetched=settings.data_dir / "fetched")
    dispatcher = stored.dispatcher(
        executor, model.loads, metrics=model.metrics.jobs, max_audio_seconds=settings.max_audio_seconds
    )
    # Many may read the counts at once, with or without a key.
    counts = SharedCall(stored.store.counts)
    return _Parts(model, stored, executor, dispatcher, limits_of(settings), counts)


def _controller(
    parts: _Parts, model_file: ModelFile | None, *, show: Callable[[str], None] | None
) -> Controller | None:
    if model_file is None:
        return None
    from whisper_inference.standalone.controller import Controller
    from whisper_inference.standalone.record import RecordFile

    records = RecordFile(model_file.base.data_dir / "model.json")
    return Controller(model_file, server=parts, records=records, show=show)


def _model_queue(parts: _Parts, control: LocalModelControl, *, retry_window: timedelta) -> ModelQueue:
    jobs = parts.stored.service(parts.dispatcher, retry_window=retry_window)
    return ModelQueue(key=LOCAL, model=control, jobs=jobs, probe=AudioProbe(), limits=parts.limits, counts=parts.counts)


def _executions(parts: _Parts, control: LocalModelControl) -> Executions:
    return Executions(
        parts.executor,
        parts.stored.spool,
        facts=control.facts,
        changes=parts.owner.changes,
        limits=parts.limits,
        metrics=parts.model.metrics.jobs,
        cold_start=parts.model.metrics.requests.cold_start,
    )
