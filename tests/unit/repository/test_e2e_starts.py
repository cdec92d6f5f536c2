"""The figure that a run of the stories tells: how long pods take until they are Ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e2e import starts


def pod(*, ready: str = "True", restarts: int = 0, limits: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a pod whose container started two seconds before it was Ready."""
    running = {"running": {"startedAt": "2026-11-25T07:00:00Z"}}
    return {
        "spec": {"containers": [{"resources": {"limits": limits or {}}}]},
        "status": {
            "containerStatuses": [{"restartCount": restarts, "state": running}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-25T07:00:02Z"}],
        },
    }


def test_a_pod_took_from_the_start_of_its_container_until_it_was_ready() -> None:
    assert starts.seconds_of(pod(limits={"memory": "1Gi"})) == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(pod(ready="False"), id="not ready"),
        pytest.param(pod(restarts=1), id="started again"),
        pytest.param(pod(limits={"cpu": "150m"}), id="slowed by its story"),
        pytest.param({"spec": {"containers": []}, "status": {}}, id="not yet placed"),
    ],
)
def test_a_pod_that_says_nothing_of_a_start_is_left_out(other: dict[str, Any]) -> None:
    assert starts.seconds_of(other) is None


def test_the_figures_are_told_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "SAVED", tmp_path / "e2e" / "starts.json")
    told = starts.report({"a/x": 1.0, "a/y": 3.0, "b/z": 2.0})
    assert told == "container started -> Ready: median 2 s, most 3 s, 3 pods"
    assert '"a/y": 3.0' in starts.SAVED.read_text()
