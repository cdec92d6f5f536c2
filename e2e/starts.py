"""How long pods of models take from the start of their container until they are Ready, as the API server knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from e2e.cluster import Cluster
from e2e.model import LABEL
from tools.clusters.base import ROOT

SAVED = ROOT / "var" / "e2e" / "starts.json"
"""Seconds by pod, of the last run."""

Json = dict[str, Any]


def seen(cluster: Cluster) -> dict[str, float]:
    """Return the seconds of each pod that is there, in whole ones: so the API server keeps times."""
    pods = cluster.client.get("/api/v1/pods", params={"labelSelector": LABEL}).json()["items"]
    took = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": seconds_of(pod) for pod in pods}
    return {name: seconds for name, seconds in took.items() if seconds is not None}


def seconds_of(pod: Json) -> float | None:
    """Return what a pod took; None: it is not Ready, was started again, or may not use a whole core."""
    statuses = pod["status"].get("containerStatuses", [])
    ready = [one for one in pod["status"].get("conditions", []) if one["type"] == "Ready" and one["status"] == "True"]
    slowed = any("cpu" in one["resources"].get("limits", {}) for one in pod["spec"]["containers"])
    if slowed or not ready or any(one["restartCount"] for one in statuses):
        return None
    started = max(datetime.fromisoformat(one["state"]["running"]["startedAt"]) for one in statuses)
    return (datetime.fromisoformat(ready[0]["lastTransitionTime"]) - started).total_seconds()


def report(took: Mapping[str, float]) -> str:
    """Save the figures; return them as a sentence."""
    SAVED.parent.mkdir(parents=True, exist_ok=True)
    SAVED.write_text(json.dumps(took, indent=2))
    order = sorted(took.values())
    return (
        f"container started -> Ready: median {order[len(order) // 2]:.0f} s, most {order[-1]:.0f} s, {len(order)} pods"
    )
