"""What the planner sees of a server's work."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from whisper_inference.lifecycle.machine import Lifecycle
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.standalone.observe import ServerObserver
from whisper_inference.standalone.record import Record
from whispermodel.planning.decision import Observed

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def observed(lifecycle: Lifecycle, *, queued: int) -> Observed:
    owner = SimpleNamespace(lifecycle=lifecycle, retry_after=0.0, work_began_seconds=None, idle_seconds=0.0)
    observer = ServerObserver(cast("LifecycleOwner", owner), idle_since=None)
    return observer.observe(Record(), queued=queued, now=NOW)


@pytest.mark.parametrize(
    ("lifecycle", "queued", "waiting"),
    [
        pytest.param(Lifecycle(), 0, 0, id="nothing"),
        pytest.param(Lifecycle(queue=(1,)), 3, 3, id="stored jobs, for the first of which the worker is asked"),
        pytest.param(Lifecycle(queue=(1,)), 0, 1, id="a gateway's job, which is not stored"),
        pytest.param(Lifecycle(queue=(1,), expected=frozenset({2})), 0, 2, id="an upload besides"),
    ],
)
def test_work_that_waits_for_the_model_is_demand(lifecycle: Lifecycle, queued: int, waiting: int) -> None:
    assert observed(lifecycle, queued=queued).waiting == waiting
