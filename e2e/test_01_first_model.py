"""Story 1: install the chart, apply the first WhisperModel of docs/quickstart.md, and wake it with speech."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from e2e import quick_start
from e2e.cluster import Cluster
from e2e.model import Model
from e2e.release import SHARED, Release, Releases
from e2e.speech import WORDS
from testing.spoken_words import normalized


def test_the_quick_start_works_as_written(cluster: Cluster, releases: Releases) -> None:
    releases.start_afresh()
    try:
        printed = quick_start.run(cluster)
        releases.adopt(SHARED, SHARED)
    finally:
        cluster.kubectl("delete", "whispermodels", "--all", "--namespace=default", "--wait=false")
    assert WORDS in normalized(printed)
    assert re.search(r"^NAME +STATE +REASON +MODEL +MEMORY +NEXT +READY +AGE$", printed, flags=re.MULTILINE)
    assert re.findall(r"^dictation +(\w+) +(\w+) ", printed, flags=re.MULTILINE) == [
        ("Zero", "Idle"),
        ("Loaded", "Demand"),
    ]


def test_helm_test_succeeds(release: Release) -> None:
    assert "Succeeded" in release.test()


def test_kubectl_shows_state_memory_and_next_change(model: Model) -> None:
    now = datetime.now(UTC)
    earlier, later = now - timedelta(hours=1), now + timedelta(hours=1)
    entries = [
        {"name": "start", "cron": f"{earlier.minute} {earlier.hour} * * *", "state": "Loaded"},
        {"name": "end", "cron": f"{later.minute} {later.hour} * * *", "state": "Unloaded"},
    ]
    model.apply(schedule={"entries": entries})
    model.wait_until(lambda seen: seen.get("state") == "Loaded" and "memory" in seen, "loaded, with its memory known")
    row = model.row()
    assert (row["STATE"], row["REASON"], row["MODEL"], row["READY"]) == ("Loaded", "Schedule", "tiny.en", "True")
    assert re.fullmatch(r"\d+Mi", row["MEMORY"])
    assert row["NEXT"] == f"Unloaded {later:%a %H:%M} UTC"


def test_a_pod_is_ready_before_its_model_is_loaded(model: Model) -> None:
    model.apply(desiredState="Unloaded")
    status = model.wait_for(state="Unloaded")
    assert status["replicas"] == {"desired": 1, "ready": 1, "loaded": 0}
    [container] = model.pod()["status"]["containerStatuses"]
    assert (container["ready"], container["restartCount"]) == (True, 0)
