"""The WhisperModel of a model file with its status: as `kubectl get -o json` would show it, and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from whisper_inference.errors import ServiceError
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whisper_inference.standalone.conditions import ConditionInputs, findings
from whisper_inference.standalone.manifest import Manifest, ManifestError
from whispermodel.catalog import Device
from whispermodel.conditions import as_conditions
from whispermodel.planning.modes import ManualCommand
from whispermodel.planning.planner import Plan
from whispermodel.spec import API_VERSION, KIND
from whispermodel.states import State
from whispermodel.status import LastFailure, LastLoad, LastUnload, Memory, Replicas, Status
from whispermodel.status_writes import as_json, memory, next_transition, recent_starts, shortened, state_since, whole


@dataclass(frozen=True, slots=True)
class RecentEvents:
    """What happened since the last status."""

    load: LoadReceipt | None = None
    unload: UnloadReceipt | None = None
    failure: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """What the next status is made of."""

    now: datetime
    """The time of the observation."""
    generation: int
    """The version of the spec that was applied."""
    state: State
    """What the model is."""
    plan: Plan
    """What it should be."""
    device: str | None
    """Where it is loaded; None if it is not."""
    memory: Memory | None
    """What the processes hold."""
    idle_since: datetime | None
    """When the last work ended."""
    manual: ManualCommand | None
    """The manual command that still counts."""
    recent: RecentEvents
    """What happened since the last status."""
    failure: str | None = None
    """Why the last load failed, if it did."""
    failures: int = 0
    """How many loads failed in a row."""
    changing: bool = False
    """Whether a process of the previous model still runs."""
    problem: ManifestError | None = None
    """Why the latest version of the file cannot be applied."""
    unfit: str | None = None
    """Why there is no room for the model, even if others make way."""


def next_status(before: Status, current: StatusInputs) -> Status:
    """Return the status after `before`; what is unchanged keeps its time."""
    now, plan, recent = whole(current.now), current.plan, current.recent
    last_unload = _last_unload(recent.unload, at=now) or before.last_unload
    condition_input = ConditionInputs(
        current.state,
        plan,
        failure=current.failure,
        changing=current.changing,
        problem=current.problem,
        last_unload=last_unload,
        unfit=current.unfit,
    )
    return Status(
        observed_generation=current.generation,
        state=current.state,
        target=plan.target,
        reason=plan.reason,
        message=plan.message,
        since=state_since(before, current.state, now),
        spec_since=before.spec_since,
        idle_since=whole(current.idle_since) if current.idle_since else None,
        next_transition=next_transition(plan.next_transition),
        replicas=_replicas(current),
        manual=current.manual,
        device=Device(current.device) if current.device else None,
        memory=current.memory,
        last_load=_last_load(recent.load, at=now) or before.last_load,
        recent_start_seconds=recent_starts(before, round(recent.load.seconds, 3) if recent.load else None),
        last_unload=last_unload,
        last_failure=_last_failure(recent.failure, count=current.failures, at=now) or before.last_failure,
        conditions=tuple(as_conditions(before, findings(condition_input), generation=current.generation, now=now)),
    )


def memory_of(usage: MemoryUsage, *, reserved: int, at: datetime) -> Memory:
    """Return what the processes hold, the API process included."""
    return memory(resident=usage.tree.proportional, gpu=usage.gpu_used_bytes, gpu_reserved=reserved, at=at)


def document_of(manifest: Manifest, status: Status) -> dict[str, JsonValue]:
    """Return the resource in JSON."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            **manifest.metadata.model_dump(mode="json", exclude_none=True),
            "generation": status.observed_generation,
        },
        "spec": manifest.document,
        "status": as_json(status),
    }


def table(manifest: Manifest, status: Status) -> str:
    """Return the columns that kubectl would print, and the message below them."""
    ready = condition.status if (condition := status.condition("Ready")) else "Unknown"
    row = {
        "NAME": manifest.name,
        "STATE": status.state or "",
        "TARGET": status.target or "",
        "REASON": status.reason or "",
        "MODEL": manifest.spec.model.size,
        "MEMORY": status.memory.summary if status.memory else "",
        "NEXT": status.next_transition.summary if status.next_transition else "-",
        "READY": ready,
    }
    widths = {title: max(len(title), len(text)) for title, text in row.items()}
    titles = "  ".join(title.ljust(width) for title, width in widths.items()).rstrip()
    texts = "  ".join(text.ljust(widths[title]) for title, text in row.items()).rstrip()
    return f"{titles}\n{texts}\n{status.message}"


def _replicas(current: StatusInputs) -> Replicas:
    """Return the counts that a cluster with one pod would have."""
    up = current.state is not State.ZERO
    return Replicas(
        desired=int(current.plan.target is not State.ZERO), ready=int(up), loaded=int(current.state is State.LOADED)
    )


def _last_load(receipt: LoadReceipt | None, *, at: datetime) -> LastLoad | None:
    if receipt is None:
        return None
    phases = {phase: round(seconds, 3) for phase, seconds in receipt.phases.items()}
    return LastLoad(time=at, seconds=round(receipt.seconds, 3), phases=phases, trigger=receipt.trigger)


def _last_unload(receipt: UnloadReceipt | None, *, at: datetime) -> LastUnload | None:
    # Without a device no model was unloaded: only the zygote ended.
    if receipt is None or receipt.device is None:
        return None
    return LastUnload(
        time=at,
        seconds=round(receipt.seconds, 3),
        freed_resident_bytes=receipt.freed_ram_bytes,
        freed_gpu_bytes=receipt.freed_gpu_bytes,
        fully_released=receipt.fully_released,
    )


def _last_failure(error: ServiceError | None, *, count: int, at: datetime) -> LastFailure | None:
    return LastFailure(reason="LoadFailed", message=shortened(str(error)), time=at, count=count) if error else None
