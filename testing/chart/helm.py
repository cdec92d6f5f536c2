"""Run Helm: render the chart, and install it on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testing.api_server import ROOT

CHART = ROOT / "deploy" / "helm" / "whisper-operator"
PROGRAMS = ROOT / ".tools" / "bin"
OTHER_CRDS = (ROOT / ".tools" / "prometheus-operator-crds", ROOT / ".tools" / "gateway-api-crds")
"""Folders of the CRDs that the chart's objects need, apart from its own."""
HOW_TO_GET_IT = "Helm is not installed: run 'make tools'"
RELEASE, NAMESPACE, GATEWAY = "whisper-operator", "whisper-system", "whisper-gateway"
OLDEST = "1.31.0"
"""The Kubernetes version for which charts are rendered without a cluster."""

Json = dict[str, Any]


class HelmFailed(Exception):
    """Helm failed; the message is its output."""


def is_installed() -> bool:
    """Return whether `make tools` has built everything that the chart's tests need."""
    programs = all(os.access(PROGRAMS / name, os.X_OK) for name in ("helm", "helm-docs"))
    return programs and all(any(folder.glob("*.yaml")) for folder in OTHER_CRDS)


@dataclass(frozen=True)
class Rendered:
    """The objects of a rendered chart."""

    objects: list[Json]

    def of(self, kind: str) -> list[Json]:
        return [one for one in self.objects if one["kind"] == kind]

    def the(self, kind: str, name: str = "") -> Json:
        """Return the only object of a kind, or the only one with that name."""
        [found] = [one for one in self.of(kind) if name in ("", one["metadata"]["name"])]
        return found

    def pods(self) -> Iterator[Json]:
        """Yield the chart's pods, and those that its Deployment and StatefulSet would create."""
        yield from self.of("Pod")
        for one in (*self.of("Deployment"), *self.of("StatefulSet")):
            yield {"apiVersion": "v1", "kind": "Pod", **one["spec"]["template"]}

    def environment(self) -> dict[str, str]:
        """Return the operator's environment."""
        [container] = self.the("Deployment")["spec"]["template"]["spec"]["containers"]
        return {one["name"]: one["value"] for one in container["env"]}

    def gateway_environment(self) -> dict[str, str]:
        """Return the gateway's environment; values that the pod's fields give are the fields' paths."""
        [container] = self.the("StatefulSet")["spec"]["template"]["spec"]["containers"]
        return {
            one["name"]: one["value"] if "value" in one else one["valueFrom"]["fieldRef"]["fieldPath"]
            for one in container["env"]
        }


def loaded(text: str) -> Rendered:
    """Return the objects in Helm's output."""
    return Rendered([one for one in yaml.load_all(text, yaml.CSafeLoader) if one])


@dataclass(frozen=True)
class Helm:
    """Runs Helm with its own home folder, against the cluster of a kubeconfig if there is one."""

    folder: Path
    kubeconfig: Path = Path(os.devnull)

    def run(self, *arguments: str, values: Mapping[str, object] | None = None) -> str:
        """Run a command and return its output. Raises HelmFailed."""
        given = ("--values", "-") if values is not None else ()
        done = subprocess.run(
            [str(PROGRAMS / "helm"), *arguments, *given],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig)},
            input=json.dumps(values),
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise HelmFailed(done.stdout + done.stderr)
        return done.stdout

    def render(self, *options: str, **values: object) -> Rendered:
        """Render the chart with `helm template`."""
        command = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", OLDEST)
        return loaded(self.run(*command, *options, values=values))

    def package(self, version: str) -> Path:
        """Package the chart under another version."""
        target = ("--version", version, "--app-version", version, "--destination", str(self.folder))
        self.run("package", str(CHART), *target)
        return self.folder / f"{CHART.name}-{version}.tgz"


@dataclass
class Release:
    """A release on a cluster. chart: the chart last installed."""

    helm: Helm
    name: str
    namespace: str
    chart: Path = CHART

    def install(self, **values: object) -> str:
        """Install the release and return its notes."""
        return self._run("install", self.name, str(self.chart), values=values)

    def upgrade(self, chart: Path, **values: object) -> str:
        self.chart = chart
        return self._run("upgrade", self.name, str(chart), values=values)

    def uninstall(self) -> str:
        return self._run("uninstall", self.name, "--ignore-not-found")

    def objects(self) -> Rendered:
        """Return the release's manifest."""
        return loaded(self._run("get", "manifest", self.name))

    def _run(self, *arguments: str, values: Mapping[str, object] | None = None) -> str:
        return self.helm.run(*arguments, "--namespace", self.namespace, values=values)
