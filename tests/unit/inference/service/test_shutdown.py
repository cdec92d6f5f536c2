"""What a stopping server waits for, and what it logs about the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from structlog.testing import capture_logs

from whisper_inference.jobs.job import Status
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.store import JobStore
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.service.shutdown import _has_work, log_unfinished_jobs


async def test_drain_assumes_work_when_the_store_is_unreadable() -> None:
    async def counts() -> None:
        raise OSError("disk I/O error")

    jobs = SimpleNamespace(store=SimpleNamespace(counts=counts))
    with capture_logs() as log:
        assert await _has_work(cast("JobService", jobs))
    assert log == [{"event": "server.work_unknown", "log_level": "warning", "reason": "OSError: disk I/O error"}]


async def test_unreadable_store_is_logged_at_the_end() -> None:
    async def page(*, status: Status) -> None:
        raise OSError("disk I/O error")

    store, owner = SimpleNamespace(page=page), SimpleNamespace()
    with capture_logs() as log:
        await log_unfinished_jobs(cast("JobStore", store), owner=cast("LifecycleOwner", owner), data_dir=Path("/data"))
    assert [line["event"] for line in log] == ["server.jobs_left_unknown"]
