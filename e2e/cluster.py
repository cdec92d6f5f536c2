"""The cluster of the stories: kubectl, the API through `kubectl proxy`, and forwarded ports."""

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
import yaml

from e2e.providers.base import ROOT
from tests.api_server import Program
from tests.operator_process import eventually

MARKS = ("whisper-e2e-", "kind-whisper-e2e")
"""How the name of a context begins by which a cluster is known to be one for tests."""
BINARIES = ROOT / ".tools" / "bin"
_SECONDS = 60

Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """A cluster that stories may do anything to. client: speaks to its API as the kubeconfig's user."""

    kubeconfig: Path
    context: str
    folder: Path
    client: httpx.Client

    def environment(self) -> dict[str, str]:
        """Return the environment for programs that find the cluster by KUBECONFIG, and our tools by PATH."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": f"{BINARIES}:{os.environ['PATH']}"}

    def run(self, *command: str, given: str | None = None, seconds: float = _SECONDS) -> str:
        """Run kubectl, helm or another program; return what it prints, or fail with what it complains of."""
        done = subprocess.run(
            command, env=self.environment(), input=given, capture_output=True, text=True, cwd=ROOT, timeout=seconds
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = _SECONDS) -> str:
        return self.run("kubectl", *arguments, given=given, seconds=seconds)

    def apply(self, *objects: Json) -> None:
        """Apply objects, server-side."""
        for one in objects:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=json.dumps(one))

    def get(self, path: str) -> Json | None:
        """Return an object or a list of the API; None: there is no such thing."""
        answer = self.client.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        assert answer.is_success, answer.text
        return answer.json()

    def items(self, path: str, **labels: str) -> list[Json]:
        """Return the objects of a list that carry these labels (- and / in their names: as keywords of a dict)."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        answer = self.client.get(path, params={"labelSelector": selector} if selector else None)
        assert answer.is_success, answer.text
        return answer.json()["items"]

    def make_namespace(self, name: str) -> str:
        """Make a namespace whose pods must be as restricted as Pod Security knows it; return its name."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        eventually(lambda: self.get(account), f"{name} has an account for pods")
        return name

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace; what is in it ends meanwhile."""
        self.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")

    @contextmanager
    def forwarded(self, target: str, port: int, *, namespace: str) -> Iterator[str]:
        """Forward a port of a pod or of another object that has pods, until the block ends; yield its URL here."""
        command = ("port-forward", "--namespace", namespace, target, f":{port}")
        with listening(command, r"Forwarding from 127\.0\.0\.1:(\d+)", self.kubeconfig, folder=self.folder) as here:
            yield f"http://127.0.0.1:{here}"


def marked_context(kubeconfig: Path) -> str:
    """Return the kubeconfig's context. Raises PermissionError unless it is marked as that of a cluster for tests."""
    context = yaml.safe_load(kubeconfig.read_text())["current-context"]
    if not context.startswith(MARKS):
        raise PermissionError(
            f"the context '{context}' of {kubeconfig} is not marked as that of a cluster for tests, and the stories "
            f"delete what they find: its name would have to begin with {' or '.join(MARKS)}"
        )
    return context


@contextmanager
def connected(kubeconfig: Path, folder: Path) -> Iterator[Cluster]:
    """Connect to a cluster until the block ends. folder: for logs of what connects."""
    context = marked_context(kubeconfig)
    command = ("proxy", "--port=0", "--reject-paths=^$")
    with (
        listening(command, r"127\.0\.0\.1:(\d+)", kubeconfig, folder=folder) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        yield Cluster(kubeconfig, context, folder, client)


@contextmanager
def listening(command: tuple[str, ...], pattern: str, kubeconfig: Path, *, folder: Path) -> Iterator[int]:
    """Run a command of kubectl that serves a port, until the block ends; yield the port, which its output names."""
    log = folder / f"kubectl-{command[0]}-{os.urandom(4).hex()}.log"
    program = Program([str(BINARIES / "kubectl"), "--kubeconfig", str(kubeconfig), *command], log)
    program.start()
    try:
        program.wait_for(lambda: re.search(pattern, log.read_text()) is not None, "kubectl listens")
        found = re.search(pattern, log.read_text())
        assert found is not None
        yield int(found[1])
    finally:
        program.stop()
