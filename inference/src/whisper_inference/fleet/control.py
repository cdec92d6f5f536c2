"""ModelControl over a WhisperModel in the cluster: facts from its status, commands by its demand Lease."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from whisper_inference.errors import ModelNotFound, Overruled, ServiceError
from whisper_inference.fleet.demand import Demand
from whisper_inference.fleet.fleet import Fleet, FleetModel
from whisper_inference.fleet.reported import cause_of, new_work_refusal, ready_in_seconds
from whisper_inference.model_control import (
    Ended,
    LoadReceipt,
    ModelFacts,
    ModelMemory,
    Trigger,
    UnloadReceipt,
)
from whispermodel.key import Key
from whispermodel.planning.modes import ManualCommand, Reason
from whispermodel.spec import API_VERSION, KIND
from whispermodel.states import Depth, Mode, State
from whispermodel.status import LastLoad, LastUnload, Status

if TYPE_CHECKING:
    from pydantic import JsonValue

_DOWN = (State.ZERO, State.UNLOADED)
_OVERRULING = (Reason.OVERRIDE, Reason.DESIRED_STATE, Reason.EXCEPTION, Reason.SUSPENDED)
"""What takes precedence over a manual command."""


@dataclass(frozen=True, slots=True)
class FleetControl:
    """Controls one WhisperModel."""

    key: Key
    """Which one."""
    fleet: Fleet
    """Where it is seen."""
    demand: Demand
    """How it is woken and commanded."""
    force: Callable[[Key], None]
    """Puts the work that runs on a model's pods back into the queue."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The current time, in UTC."""

    @property
    def _model(self) -> FleetModel:
        """The model now. Raises ModelNotFound once it is deleted."""
        model = self.fleet.get(self.key)
        if model is None:
            raise ModelNotFound(model=str(self.key))
        return model

    def facts(self) -> ModelFacts:
        """Return the model's state as its operator reported it last."""
        model, now = self._model, self.clock()
        spec, status = model.spec, model.status
        memory = status.memory
        return ModelFacts(
            name=spec.model.size if spec else "unknown",
            engine=spec.model.engine.value if spec else "unknown",
            state=status.state or State.ZERO,
            depth=Depth.COLD,
            device=status.device.value if status.device and status.state is State.LOADED else None,
            started=True,
            in_flight=0,
            expected=0,
            idle_seconds=self._idle_seconds(status, now),
            work_began_seconds=None,
            gpu_bytes=(memory.gpu_bytes, memory.gpu_reserved_bytes) if memory else (0, 0),
            backoff_seconds=0.0,
            ready_in_seconds=ready_in_seconds(spec, status),
            manual=status.manual,
            failure=cause_of(model),
            last_load=_last_load(status, now),
            last_unload=_last_unload(status, now),
        )

    async def memory(self) -> ModelMemory:
        """Return what the pods held when the operator measured it last."""
        memory = self._model.status.memory
        return ModelMemory(ram_bytes=memory.resident_bytes if memory else 0, gpu=None)

    async def load(self, trigger: Trigger) -> LoadReceipt:  # noqa: ARG002 (through a gateway, every load is manual)
        """Load the model; one that is loaded already stays. Raises what keeps it away, Overruled."""
        status = await self._commanded(Mode.LOADED, lambda status: status.state is State.LOADED)
        last_load = _last_load(status, self.clock())
        return last_load.receipt if last_load else LoadReceipt(_device(status), "", Reason.MANUAL.value)

    async def unload(self, trigger: Trigger, *, depth: Depth, force: bool) -> UnloadReceipt | None:  # noqa: ARG002
        """Unload the model after the running jobs, with force at once; None: nothing was loaded. Raises Overruled."""
        before = self._model.status
        if force:
            self.force(self.key)
        status = await self._commanded(Mode.UNLOADED, lambda status: status.state in _DOWN)
        if before.state in _DOWN or status.last_unload is None:
            return None
        return _unload_receipt(status.last_unload, device=_device(before))

    @asynccontextmanager
    async def expect_work(self) -> AsyncGenerator[Callable[[], None]]:
        """Wake the model while the work for it is still being uploaded."""
        with self.demand.hold(self.key):
            yield _do_nothing

    def refusal(self) -> ServiceError | None:
        """Return why no new work is let in now."""
        return new_work_refusal(self._model, self.clock())

    def unavailable(self) -> ServiceError | None:
        """Return what keeps the model away, by its operator's report; a pod that serves knows better: it is tried."""
        return None if self.fleet.serving(self.key) else cause_of(self._model)

    async def resource(self) -> dict[str, JsonValue] | None:
        """Return the WhisperModel as `kubectl get -o json` shows it, without the fields of the API server's own."""
        resource = self._model.resource
        metadata = resource.metadata.model_dump(
            mode="json", by_alias=True, include={"name", "namespace", "uid", "generation", "labels"}
        )
        document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata}
        return cast("dict[str, JsonValue]", {**document, "spec": resource.spec, "status": resource.status})

    async def _commanded(self, state: Mode, reached: Callable[[Status], bool]) -> Status:
        """Command a state, and return the status once it is reached. No deadline: its caller has one.

        Raises what keeps the model away, and Overruled when something else takes precedence over the command.
        """
        command = ManualCommand(state, self.clock())
        with self.fleet.changes(self.key) as changed:
            self.demand.command(self.key, command)
            while True:
                changed.clear()
                model = self._model
                status = model.status
                # Only then was the status written with the command in mind.
                if status.manual is not None and status.manual.at >= command.at:
                    if reached(status):
                        return status
                    if status.reason in _OVERRULING:
                        raise Overruled(decision=status.message)
                    if state is Mode.LOADED and (cause := cause_of(model)):
                        raise cause
                await changed.wait()

    def _idle_seconds(self, status: Status, now: datetime) -> float:
        idle = self.demand.idle_seconds(self.key)
        since = status.idle_since or status.since
        reported = max(0.0, (now - since).total_seconds()) if since else 0.0
        return reported if idle is None else min(idle, reported) if since else idle


def _device(status: Status) -> str:
    return status.device.value if status.device else "cpu"


def _last_load(status: Status, now: datetime) -> Ended[LoadReceipt] | None:
    last = status.last_load
    if last is None:
        return None
    ram = status.memory.resident_bytes if status.memory else 0
    gpu = status.memory.gpu_bytes if status.memory else 0
    return Ended(_load_receipt(last, device=_device(status), ram_bytes=ram, gpu_bytes=gpu), _age(last.time, now))


def _load_receipt(last: LastLoad, *, device: str, ram_bytes: int, gpu_bytes: int) -> LoadReceipt:
    return LoadReceipt(
        device=device,
        compute_type="",
        trigger=last.trigger,
        seconds=last.seconds,
        phases=last.phases,
        ram_bytes=ram_bytes,
        gpu_bytes=gpu_bytes,
    )


def _last_unload(status: Status, now: datetime) -> Ended[UnloadReceipt] | None:
    last = status.last_unload
    if last is None:
        return None
    return Ended(_unload_receipt(last, device=_device(status)), _age(last.time, now))


def _unload_receipt(last: LastUnload, *, device: str) -> UnloadReceipt:
    return UnloadReceipt(
        device=device,
        depth=Depth.COLD,
        reason="manual",
        seconds=last.seconds,
        freed_ram_bytes=last.freed_resident_bytes,
        freed_gpu_bytes=last.freed_gpu_bytes,
        fully_released=last.fully_released,
    )


def _age(time: datetime, now: datetime) -> float:
    return max(0.0, (now - time).total_seconds())


def _do_nothing() -> None:
    """Do nothing: demand for which no work came is withdrawn when its last holder leaves."""
