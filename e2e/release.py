"""Releases of the chart, and those currently installed."""

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
"""The name of the release shared by most tests, and of its namespace."""
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
        """Install or upgrade the release with additional values, and wait until its operator is ready."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({**self.values, **values}, file)
            file.flush()
            options = ("--values", file.name, "--wait", f"--timeout={_SECONDS}s")
            # Adopt the CRD, which may be left from another test's release.
            self._helm("upgrade", "--install", self.name, str(chart), *options, "--take-ownership")

    def uninstall(self) -> None:
        """Uninstall the release, and wait until its objects are gone."""
        self._helm("uninstall", self.name, "--ignore-not-found", "--wait", f"--timeout={_SECONDS}s")
        # The operator's permissions are deleted first, so it cannot release its Lease, and the next one would wait.
        lease = f"lease/{self.name}-whisper-operator"
        self.cluster.kubectl("delete", lease, "--namespace", self.namespace, "--ignore-not-found")

    def test(self) -> str:
        """Run `helm test`."""
        return self._helm("test", self.name, f"--timeout={_SECONDS}s")

    def operator_pods(self) -> list[str]:
        """Return the names of the operator's pods that are not terminating."""
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
    """The installed releases: the shared one, or those of a test that needs others."""

    cluster: Cluster
    defaults: Values
    installed: list[Release] = field(default_factory=list)

    def shared(self) -> Release:
        """Return the release that manages all namespaces; install it if necessary."""
        if [one.name for one in self.installed] != [SHARED]:
            self.clear()
            return self.install(SHARED, SHARED)
        return self.installed[0]

    def install(self, name: str, namespace: str, *, chart: Path = CHART, **values: Any) -> Release:
        """Install a release in addition to the installed ones."""
        release = self.adopt(name, namespace)
        release.values.update(values)
        release.apply(chart=chart)
        return release

    def adopt(self, name: str, namespace: str) -> Release:
        """Return a release that is installed by other means, in a namespace that enforces `restricted`."""
        self.cluster.make_namespace(namespace)
        release = Release(self.cluster, name, namespace, dict(self.defaults))
        self.installed.append(release)
        return release

    def clear(self) -> None:
        """Uninstall all releases, including those left by earlier runs."""
        self.installed.clear()
        for found in json.loads(self.cluster.run("helm", "list", "--all-namespaces", "--all", "--output=json")):
            if found["chart"].startswith(f"{CHART.name}-"):
                Release(self.cluster, found["name"], found["namespace"]).uninstall()

    def start_afresh(self) -> None:
        """Uninstall all releases, and delete the CRD with all models, as in a new cluster."""
        self.clear()
        self.cluster.kubectl("delete", "customresourcedefinition", CRD, "--ignore-not-found")
