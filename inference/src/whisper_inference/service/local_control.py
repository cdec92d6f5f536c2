"""ModelControl over the processes of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from whisper_inference.errors import Overruled, ServiceError, Superseded
from whisper_inference.model_control import (
    LoadReceipt,
    ModelFacts,
    ModelMemory,
    Trigger,
    UnloadReceipt,
)
from whisper_inference.service.local_model import LocalModel
from whisper_inference.worker.resident import trim_idle_memory
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Depth, Mode, State

if TYPE_CHECKING:
    from pydantic import JsonValue

    # Imported for real only with a model file: schedules cost time at the start.
    from whisper_inference.standalone.controller import Controller


class LocalModelControl:
    """Controls the local model. controller: what decides with a model file; None without one."""

    def __init__(self, model: LocalModel, *, controller: Controller | None) -> None:
        self._model = model
        self._owner = model.owner
        self._controller = controller
        self._manual: ManualCommand | None = None
        self._started = False

    def facts(self) -> ModelFacts:
        """Return the model's state at this instant."""
        owner, now = self._owner, self._owner.lifecycle
        last_load = owner.last_load
        return ModelFacts(
            name=owner.spec.size,
            engine=owner.spec.engine,
            state=now.state,
            depth=now.depth,
            device=last_load.receipt.device if last_load and now.state is State.LOADED else None,
            started=self._started,
            in_flight=int(now.running is not None),
            expected=len(now.expected),
            idle_seconds=owner.idle_seconds,
            work_began_seconds=owner.work_began_seconds,
            gpu_bytes=owner.gpu_bytes,
            backoff_seconds=owner.retry_after,
            ready_in_seconds=self._ready_in_seconds(),
            manual=self._last_manual(),
            failure=owner.failure,
            last_load=last_load,
            last_unload=owner.last_unload,
        )

    async def memory(self) -> ModelMemory:
        """Measure what the model holds now."""
        gpu = await asyncio.to_thread(self._model.gpu.facts)
        usage = await self._model.measure()
        ram = (usage.zygote + usage.worker).proportional
        return ModelMemory(ram_bytes=ram, gpu=gpu)

    async def load(self, trigger: Trigger) -> LoadReceipt:
        """Load the model. Raises what made the load fail, Superseded, Overruled."""
        await self._keep_manual(trigger, Mode.LOADED)
        try:
            return await self._owner.load(trigger)
        except Superseded:
            if self._controller and (decision := self._controller.overruling()):
                raise Overruled(decision=decision) from None
            raise

    async def unload(self, trigger: Trigger, *, depth: Depth, force: bool) -> UnloadReceipt | None:
        """Unload the model. Raises Superseded."""
        await self._keep_manual(trigger, Mode.UNLOADED)
        return await self._owner.unload(depth, reason=trigger, force=force)

    def expect_work(self) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Load the model while the work for it is still being uploaded."""
        return self._owner.expected_work()

    def refusal(self) -> ServiceError | None:
        """Return why the model file's demandPolicy keeps new work out now."""
        return self._controller.refusal() if self._controller else None

    def unavailable(self) -> ServiceError | None:
        """Return what made the last load fail, while its back-off runs."""
        return self.facts().load_failure()

    async def resource(self) -> dict[str, JsonValue] | None:
        """Return the WhisperModel of the model file with its status."""
        return await self._controller.document() if self._controller else None

    async def start(self, *, preload: bool) -> None:
        """Load at start if so configured.

        A failure is in the status and at /health/startup; the next job retries.
        """
        try:
            if preload:
                await self._owner.load("startup")
            else:
                await asyncio.to_thread(trim_idle_memory)
        except ServiceError:
            pass  # The observer has logged it.
        finally:
            self._started = True

    def _ready_in_seconds(self) -> float | None:
        lifecycle = self._owner.lifecycle
        if lifecycle.state is State.LOADED:
            return 0.0
        measured = self._model.observer.load_seconds.get(lifecycle.depth)
        return None if measured is None else round(measured + self._owner.retry_after, 3)

    def _last_manual(self) -> ManualCommand | None:
        return self._controller.manual if self._controller else self._manual

    async def _keep_manual(self, trigger: Trigger, state: Mode) -> None:
        if trigger != "manual":
            return
        command = ManualCommand(state, datetime.now(UTC))
        if self._controller is not None:
            await self._controller.keep_manual(command)
        else:
            self._manual = command
