"""The WhisperModel that one server obeys, with its status: what `kubectl get -o json` would show, and a table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from whisper_inference.errors import ServiceError
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whisper_inference.standalone.conditions import Situation, conditions
from whisper_inference.standalone.manifest import Manifest, ManifestError
from whispermodel.catalog import Device
from whispermodel.planning.planner import Plan, Transition
from whispermodel.spec import API_VERSION, KIND, State
from whispermodel.status import (
    LastFailure,
    LastLoad,
    LastUnload,
    Manual,
    Memory,
    NextTransition,
    Replicas,
    Status,
)

_STARTS_KEPT = 5
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class RecentEvents:
    """What has happened since the last look."""

    load: LoadReceipt | None = None
    unload: UnloadReceipt | None = None
    failure: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class StatusInput:
    """What the next status is made of. failures: how many loads failed in a row."""

    now: datetime
    generation: int
    state: State
    plan: Plan
    device: str | None
    memory: Memory | None
    idle_since: datetime | None
    manual: Manual | None
    news: RecentEvents
    failure: str | None = None
    failures: int = 0
    changing: bool = False
    problem: ManifestError | None = None


def next_status(before: Status, picture: StatusInput) -> Status:
    """Return the status after `before`; what did not change keeps its time."""
    now, plan, news = _whole(picture.now), picture.plan, picture.news
    starts = (round(news.load.seconds, 3), *before.recent_start_seconds) if news.load else before.recent_start_seconds
    last_unload = _last_unload(news.unload, at=now) or before.last_unload
    situation = Situation(
        picture.state,
        plan,
        failure=picture.failure,
        changing=picture.changing,
        problem=picture.problem,
        last_unload=last_unload,
    )
    return Status(
        observed_generation=picture.generation,
        state=picture.state,
        target=plan.target,
        reason=plan.reason,
        message=plan.message,
        since=before.since if before.state is picture.state and before.since else now,
        spec_since=before.spec_since,
        idle_since=_whole(picture.idle_since) if picture.idle_since else None,
        next_transition=_next_transition(plan.next_transition),
        replicas=_replicas(picture),
        manual=picture.manual,
        device=Device(picture.device) if picture.device else None,
        memory=picture.memory,
        last_load=_last_load(news.load, at=now) or before.last_load,
        recent_start_seconds=starts[:_STARTS_KEPT],
        last_unload=last_unload,
        last_failure=_last_failure(news.failure, count=picture.failures, at=now) or before.last_failure,
        conditions=conditions(situation, before.conditions, generation=picture.generation, at=now),
    )


def memory_of(usage: MemoryUsage, *, reserved: int, at: datetime) -> Memory:
    """Return what the processes hold, the API process included."""
    held = usage.tree.proportional
    return Memory(
        summary=f"{round(held / _MIB)}Mi",
        resident_bytes=held,
        gpu_bytes=usage.gpu_used_bytes,
        gpu_reserved_bytes=reserved,
        observed_at=_whole(at),
    )


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
        "status": status.model_dump(mode="json", exclude_none=True),
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


def _whole(time: datetime) -> datetime:
    return time.replace(microsecond=0)


def _next_transition(coming: Transition | None) -> NextTransition | None:
    if coming is None:
        return None
    return NextTransition(time=_whole(coming.time), state=coming.state, by=coming.by, summary=coming.summary)


def _replicas(picture: StatusInput) -> Replicas:
    """Return the counts as a cluster with one pod would have them."""
    up = picture.state is not State.ZERO
    return Replicas(
        desired=int(picture.plan.target is not State.ZERO), ready=int(up), loaded=int(picture.state is State.LOADED)
    )


def _last_load(receipt: LoadReceipt | None, *, at: datetime) -> LastLoad | None:
    if receipt is None:
        return None
    phases = {phase: round(seconds, 3) for phase, seconds in receipt.phases.items()}
    return LastLoad(time=at, seconds=round(receipt.seconds, 3), phases=phases, trigger=receipt.trigger)


def _last_unload(receipt: UnloadReceipt | None, *, at: datetime) -> LastUnload | None:
    # Without a device no model was unloaded: only the warm process went.
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
    return LastFailure(reason="LoadFailed", message=str(error), time=at, count=count) if error else None
