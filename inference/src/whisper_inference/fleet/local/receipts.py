"""The loads and unloads that a server reports, each once."""

from __future__ import annotations

from datetime import datetime, timedelta

from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whisper_inference.standalone.status import RecentEvents
from whispermodel import wire
from whispermodel.states import Depth
from whispermodel.status import LastLoad, LastUnload, Status

_MIB = 2**20
_SAME = timedelta(seconds=2)
"""Servers report ages, and a status holds whole seconds."""


def recent_events(report: wire.ModelStatus | None, status: Status, now: datetime, *, trigger: str) -> RecentEvents:
    """Return what happened since a status. trigger: what the last load was ordered for."""
    if report is None:
        return RecentEvents()
    load, unload = report.last_load, report.last_unload
    return RecentEvents(
        load=_load_receipt(load, trigger) if load and _is_news(load, status.last_load, now) else None,
        unload=_unload_receipt(unload) if unload and _is_news(unload, status.last_unload, now) else None,
    )


def _is_news(seen: wire.LastLoad | wire.LastUnload, known: LastLoad | LastUnload | None, now: datetime) -> bool:
    return known is None or now - timedelta(seconds=seen.seconds_ago) - known.time > _SAME


def _load_receipt(load: wire.LastLoad, trigger: str) -> LoadReceipt:
    return LoadReceipt(
        device=load.device,
        compute_type="",
        trigger=trigger,
        seconds=load.load_seconds,
        phases=load.phases,
    )


def _unload_receipt(unload: wire.LastUnload) -> UnloadReceipt:
    return UnloadReceipt(
        device=unload.device_was,
        depth=Depth.COLD,
        reason="",
        seconds=unload.unload_seconds,
        freed_ram_bytes=round(unload.memory_freed.ram_mb * _MIB),
        freed_gpu_bytes=round(unload.memory_freed.vram_mb * _MIB),
        fully_released=unload.fully_released,
    )
