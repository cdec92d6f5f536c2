"""Releases of the chart, and which of them stands."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster
from tools.clusters.base import ROOT

CHART = ROOT / "deploy" / "helm" / "whisper-operator"
SHARED = "whisper"
"""The name of the release that most stories share, and of its namespace."""
CRD = "whispermodels.audio-transcriber.io"
_SECONDS = 120

Values = dict[str, Any]


@dataclass
class Release:
    """One release of the chart."""

    cluster: Cluster
    name: str
    namespace: str
    values: Values = field(default_factory=dict)

    def apply(self, *, chart: Path = CHART, **values: Any) -> None:
        """Install or upgrade it, with these values beside its own, and wait until its operator is ready."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({**self.values, **values}, file)
            file.flush()
            options = ("--values", file.name, "--wait", f"--timeout={_SECONDS}s")
            # The CRD may be there, from a release of another story.
            self._helm("upgrade", "--install", self.name, str(chart), *options, "--take-ownership")

    def uninstall(self) -> None:
        """Uninstall it, and wait until its objects are gone."""
        self._helm("uninstall", self.name, "--ignore-not-found", "--wait", f"--timeout={_SECONDS}s")
        # Its rights went with it, so its operator could not release the Lease, and the next one would wait for that.
        lease = f"lease/{self.name}-whisper-operator"
        self.cluster.kubectl("delete", lease, "--namespace", self.namespace, "--ignore-not-found")

    def test(self) -> str:
        """Run the chart's own test."""
        return self._helm("test", self.name, f"--timeout={_SECONDS}s")

    def operator_pods(self) -> list[str]:
        """Return the names of the operator's pods that are not about to end."""
        labels = {"app.kubernetes.io/instance": self.name, "app.kubernetes.io/name": "whisper-operator"}
        found = self.cluster.items(f"/api/v1/namespaces/{self.namespace}/pods", **labels)
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    @property
    def deployment(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}-whisper-operator"

    def _helm(self, *arguments: str) -> str:
        return self.cluster.run("helm", *arguments, "--namespace", self.namespace, seconds=2 * _SECONDS)


@dataclass
class Releases:
    """The releases that stand in the cluster: the shared one, or those of a story that needs others."""

    cluster: Cluster
    defaults: Values
    standing: list[Release] = field(default_factory=list)

    def shared(self) -> Release:
        """Return the release that obeys all namespaces; install it, unless it stands."""
        if [one.name for one in self.standing] != [SHARED]:
            self.clear()
            return self.install(SHARED, SHARED)
        return self.standing[0]

    def install(self, name: str, namespace: str, *, chart: Path = CHART, **values: Any) -> Release:
        """Install a release beside those that stand."""
        release = self.adopt(name, namespace)
        release.values.update(values)
        release.apply(chart=chart)
        return release

    def adopt(self, name: str, namespace: str) -> Release:
        """Return a release that somebody else installs, into a namespace that takes restricted pods only."""
        self.cluster.make_namespace(namespace)
        release = Release(self.cluster, name, namespace, dict(self.defaults))
        self.standing.append(release)
        return release

    def clear(self) -> None:
        """Uninstall all that stand, those too that an earlier run has left."""
        self.standing.clear()
        for found in json.loads(self.cluster.run("helm", "list", "--all-namespaces", "--all", "--output=json")):
            if found["chart"].startswith(f"{CHART.name}-"):
                Release(self.cluster, found["name"], found["namespace"]).uninstall()

    def start_afresh(self) -> None:
        """Uninstall all that stand, and delete the CRD with all models: as in a cluster that never knew us."""
        self.clear()
        self.cluster.kubectl("delete", "customresourcedefinition", CRD, "--ignore-not-found")
