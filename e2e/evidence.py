"""What is kept of a story that failed: objects, events, logs and metrics, in a folder of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from e2e.cluster import Cluster
from e2e.providers.base import ROOT

FAILURES = ROOT / "var" / "e2e" / "failures"
_OBJECTS = (
    "whispermodels,deployments,replicasets,pods,services,leases,networkpolicies,secrets,configmaps,serviceaccounts,"
    "roles,rolebindings,namespaces,nodes,customresourcedefinitions,clusterroles,clusterrolebindings"
)
_METRICS_PORTS = {"operator": 8081, "inference": 8002}
"""By the name of the container."""


def forget() -> None:
    """Remove what was kept of an earlier run."""
    shutil.rmtree(FAILURES, ignore_errors=True)


def folder_of(test: str) -> Path:
    """Return the folder for what is kept of a test."""
    folder = FAILURES / re.sub(r"[^\w.-]+", "-", test.removeprefix("e2e/"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def collect(cluster: Cluster, folder: Path) -> None:
    """Write everything that the cluster has to say into the folder; what cannot be had says so in its place."""
    for name, arguments in _questions().items():
        (folder / name).write_text(_answer(cluster, *arguments))
    for namespace, pod, container in _containers(cluster):
        stem = folder / f"{namespace}.{pod}"
        arguments = ("logs", "--namespace", namespace, pod, "--container", container)
        stem.with_name(f"{stem.name}.log").write_text(_answer(cluster, *arguments))
        if previous := _answer(cluster, *arguments, "--previous"):
            stem.with_name(f"{stem.name}.previous.log").write_text(previous)
        if port := _METRICS_PORTS.get(container):
            path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics"
            stem.with_name(f"{stem.name}.metrics").write_text(_fetched(cluster, path))


def _questions() -> dict[str, tuple[str, ...]]:
    everywhere = ("--all-namespaces",)
    return {
        "events.txt": ("get", "events", *everywhere, "--sort-by=.metadata.creationTimestamp"),
        "whispermodels.txt": ("get", "whispermodels", *everywhere, "--output=wide"),
        "pods.txt": ("get", "pods", *everywhere, "--output=wide"),
        "objects.yaml": ("get", _OBJECTS, *everywhere, "--output=yaml", "--ignore-not-found"),
    }


def _containers(cluster: Cluster) -> Iterator[tuple[str, str, str]]:
    try:
        pods = cluster.items("/api/v1/pods")
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
