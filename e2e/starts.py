"""Startup times of models' pods: from the start of the container until Ready, as recorded by the API server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from e2e.cluster import Cluster
from e2e.model import LABEL
from tools.clusters.base import ROOT

SAVED = ROOT / "var" / "e2e" / "starts.json"
"""Seconds by pod, from the last run."""

Json = dict[str, Any]


def seen(cluster: Cluster) -> dict[str, float]:
    """Return the startup time of each current pod, in whole seconds because the API server records no fractions."""
    pods = cluster.client.get("/api/v1/pods", params={"labelSelector": LABEL}).json()["items"]
    took = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": seconds_of(pod) for pod in pods}
    return {name: seconds for name, seconds in took.items() if seconds is not None}


def seconds_of(pod: Json) -> float | None:
    """Return a pod's startup time, or None if it is not Ready, was restarted, or has a CPU limit."""
    statuses = pod["status"].get("containerStatuses", [])
    ready = [one for one in pod["status"].get("conditions", []) if one["type"] == "Ready" and one["status"] == "True"]
    slowed = any("cpu" in one["resources"].get("limits", {}) for one in pod["spec"]["containers"])
    if slowed or not ready or any(one["restartCount"] for one in statuses):
        return None
    started = max(datetime.fromisoformat(one["state"]["running"]["startedAt"]) for one in statuses)
    return (datetime.fromisoformat(ready[0]["lastTransitionTime"]) - started).total_seconds()


def report(took: Mapping[str, float]) -> str:
    """Save the startup times; return a summary."""
    SAVED.parent.mkdir(parents=True, exist_ok=True)
    SAVED.write_text(json.dumps(took, indent=2))
    order = sorted(took.values())
    median = order[len(order) // 2]
    return f"container started -> Ready: median {median:.0f} s, maximum {order[-1]:.0f} s, {len(order)} pods"
