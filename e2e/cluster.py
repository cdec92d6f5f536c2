"""The cluster under test: kubectl, the API through `kubectl proxy`, and port forwarding."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from testing.api_server import Program
from testing.operator_process import eventually
from tools.clusters.base import BINARIES, ROOT, ProviderFailed, program

MARKS = ("whisper-e2e-", "kind-whisper-e2e")
"""Prefixes of context names that mark a cluster as one for tests."""
STORY = {"whisper-e2e": "story"}
"""The label of namespaces created by the tests."""
_SECONDS = 60

Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """A cluster in which tests may change anything."""

    kubeconfig: Path
    context: str
    """The name of its context."""
    folder: Path
    """For logs of kubectl processes."""
    client: httpx.Client
    """A client of its API, as the kubeconfig's user."""

    def environment(self) -> dict[str, str]:
        """Return an environment in which programs use this cluster and our tools."""
        # These would override KUBECONFIG for Helm.
        others = {name: value for name, value in os.environ.items() if not name.startswith("HELM_KUBE")}
        return {**others, "KUBECONFIG": str(self.kubeconfig), "PATH": f"{BINARIES}:{os.environ['PATH']}"}

    def run(self, *command: str, given: str | None = None, seconds: float = _SECONDS) -> str:
        """Run kubectl, helm or another program and return its output; fail with its error output."""
        done = subprocess.run(
            command, env=self.environment(), input=given, capture_output=True, text=True, cwd=ROOT, timeout=seconds
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = _SECONDS) -> str:
        return self.run("kubectl", *arguments, given=given, seconds=seconds)

    def apply(self, *objects: Json) -> None:
        """Server-side apply objects."""
        for one in objects:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=json.dumps(one))

    def get(self, path: str) -> Json | None:
        """Return an object or a list from the API, or None if it does not exist."""
        answer = self.client.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        assert answer.is_success, answer.text
        return answer.json()

    def items(self, path: str, **labels: str) -> list[Json]:
        """Return the objects in a list that have these labels."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        answer = self.client.get(path, params={"labelSelector": selector} if selector else None)
        assert answer.is_success, answer.text
        return answer.json()["items"]

    def make_namespace(self, name: str) -> str:
        """Create a namespace that enforces the Pod Security level `restricted`; return its name."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted", **STORY}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        eventually(lambda: self.get(account), f"{name} has a default service account")
        return name

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace without waiting."""
        self.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")

    @contextmanager
    def forwarded(self, target: str, port: int, *, namespace: str) -> Iterator[str]:
        """Forward a port of a pod, or of an object with pods, until the block ends; yield the local URL."""
        command = ("port-forward", "--namespace", namespace, target, f":{port}")
        with listening(command, r"Forwarding from 127\.0\.0\.1:(\d+)", self.kubeconfig, folder=self.folder) as here:
            yield f"http://127.0.0.1:{here}"


def refuse_unmarked(context: str) -> None:
    """Raise PermissionError unless the context belongs to a cluster for tests."""
    if not context.startswith(MARKS):
        raise PermissionError(
            f"the context '{context}' is not marked as one for tests, which delete what they find in the cluster: "
            f"its name must begin with {' or '.join(MARKS)}"
        )


def pinned(named: str, folder: Path) -> Path:
    """Write a separate kubeconfig with only the current context; return its path.

    named: one or more kubeconfigs, as in KUBECONFIG. Later changes to them, such as another current context, do not
    affect the tests. Raises PermissionError if the context is not for tests, ProviderFailed if there is none.
    """
    context = _config(named, "current-context").strip()
    refuse_unmarked(context)
    own = folder / "kubeconfig"
    own.touch(mode=0o600)
    own.write_text(_config(named, "view", "--minify", "--flatten", f"--context={context}"))
    return own


def _config(named: str, *arguments: str) -> str:
    command = [program("kubectl"), "config", *arguments]
    done = subprocess.run(command, env={**os.environ, "KUBECONFIG": named}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProviderFailed(f"cannot read the current context from KUBECONFIG={named}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def connected(kubeconfig: Path, folder: Path) -> Iterator[Cluster]:
    """Connect to a cluster until the block ends. kubeconfig: from pinned(). folder: for logs."""
    context = _config(str(kubeconfig), "current-context").strip()
    command = ("proxy", "--port=0", "--reject-paths=^$")
    with (
        listening(command, r"127\.0\.0\.1:(\d+)", kubeconfig, folder=folder) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        yield Cluster(kubeconfig, context, folder, client)


@contextmanager
def listening(command: tuple[str, ...], pattern: str, kubeconfig: Path, *, folder: Path) -> Iterator[int]:
    """Run a kubectl command that listens on a port until the block ends; yield the port from its output."""
    log = folder / f"kubectl-{command[0]}-{os.urandom(4).hex()}.log"
    kubectl = Program([program("kubectl"), "--kubeconfig", str(kubeconfig), *command], log)
    kubectl.start()
    try:
        kubectl.wait_for(lambda: re.search(pattern, log.read_text()) is not None, "kubectl is listening")
        found = re.search(pattern, log.read_text())
        assert found is not None
        yield int(found[1])
    finally:
        kubectl.stop()
