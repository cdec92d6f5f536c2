"""Diagnostics of a failed test: objects, events, logs and metrics, in one folder per test.

Limited to the namespaces of tests and releases, and for Secrets to the names of their entries, because the folder may
be shared with people who must not have the keys.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from e2e.cluster import STORY, Cluster
from e2e.release import CRD, SHARED
from tools.clusters.base import ROOT

FAILURES = ROOT / "var" / "e2e" / "failures"
_KINDS = (
    "whispermodels",
    "deployments",
    "statefulsets",
    "replicasets",
    "pods",
    "services",
    "persistentvolumeclaims",
    "leases",
    "networkpolicies",
    "configmaps",
    "serviceaccounts",
    "roles",
    "rolebindings",
)
_CLUSTER_KINDS = ("nodes", f"customresourcedefinitions/{CRD}", "clusterroles", "clusterrolebindings")
_ENTRIES = (
    "--output=go-template={{range .items}}{{.metadata.name}}:{{range $name, $_ := .data}} {{$name}}{{end}}"
    r'{{"\n"}}{{end}}'
)
"""Prints the names of Secrets and of their entries."""
_METRICS_PORTS = {"operator": 8081, "inference": 8002, "gateway": 8002}
"""Ports by container name."""


def forget() -> None:
    """Remove the diagnostics of earlier runs."""
    shutil.rmtree(FAILURES, ignore_errors=True)


def folder_of(test: str) -> Path:
    """Create and return the folder for a test."""
    folder = FAILURES / re.sub(r"[^\w.-]+", "-", test.removeprefix("e2e/"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def collect(cluster: Cluster, folder: Path) -> None:
    """Write diagnostics into the folder; for what is not available, the file contains the error."""
    namespaces = _namespaces(cluster)
    for name, arguments in _commands(namespaces).items():
        (folder / name).write_text(_answer(cluster, *arguments))
    for namespace, pod, container in _containers(cluster, namespaces):
        stem = folder / f"{namespace}.{pod}"
        arguments = ("logs", "--namespace", namespace, pod, "--container", container)
        stem.with_name(f"{stem.name}.log").write_text(_answer(cluster, *arguments))
        if previous := _answer(cluster, *arguments, "--previous"):
            stem.with_name(f"{stem.name}.previous.log").write_text(previous)
        if port := _METRICS_PORTS.get(container):
            path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics"
            stem.with_name(f"{stem.name}.metrics").write_text(_fetched(cluster, path))


def _namespaces(cluster: Cluster) -> list[str]:
    """Return the namespaces of tests and releases, including the two of the quick start, which have no label."""
    try:
        marked = [one["metadata"]["name"] for one in cluster.items("/api/v1/namespaces", **STORY)]
    except (AssertionError, httpx.HTTPError):
        marked = []
    return sorted({"default", SHARED, *marked})


def _commands(namespaces: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return kubectl commands by output file. One kind each, because kubectl fails entirely for an unknown kind."""
    asked: dict[str, tuple[str, ...]]
    asked = {f"{kind.split('/')[0]}.yaml": ("get", kind, "--output=yaml") for kind in _CLUSTER_KINDS}
    for namespace in namespaces:
        get = ("get", "--namespace", namespace)
        asked[f"{namespace}.events.txt"] = (*get, "events", "--sort-by=.metadata.creationTimestamp")
        asked[f"{namespace}.secrets.txt"] = (*get, "secrets", _ENTRIES)
        asked |= {f"{namespace}.{kind}.yaml": (*get, kind, "--output=yaml") for kind in _KINDS}
    return asked


def _containers(cluster: Cluster, namespaces: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    try:
        pods = [pod for namespace in namespaces for pod in cluster.items(f"/api/v1/namespaces/{namespace}/pods")]
    except (AssertionError, httpx.HTTPError):
        return
    for pod in pods:
        for container in pod["spec"]["containers"]:
            yield pod["metadata"]["namespace"], pod["metadata"]["name"], container["name"]


def _answer(cluster: Cluster, *arguments: str) -> str:
    try:
        return cluster.kubectl(*arguments)
    except (AssertionError, subprocess.TimeoutExpired) as problem:
        return "" if "--previous" in arguments else f"{problem}\n"


def _fetched(cluster: Cluster, path: str) -> str:
    try:
        return cluster.client.get(path).text
    except httpx.HTTPError as problem:
        return f"{problem}\n"
