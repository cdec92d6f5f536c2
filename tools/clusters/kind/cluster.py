"""The kind cluster, managed by the kind and docker commands."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tools.clusters.base import KUBECONFIG, ProviderFailed, program

_NAME = "whisper-e2e"
_NODE = f"{_NAME}-control-plane"
_CONFIG = Path(__file__).with_name("config.yaml")
_API_SECONDS = 90.0
_POLL_SECONDS = 0.2


class KindCluster:
    """A cluster with one node in a Docker container."""

    context = f"kind-{_NAME}"
    needs_base_image = False

    def unavailable_reason(self) -> str | None:
        for name in ("kind", "docker"):
            if shutil.which(name) is None:
                return f"kind requires {name}, which is not on the PATH"
        return None if _succeeds("docker", "info") else "kind requires a running Docker daemon"

    def is_up(self) -> bool:
        return (
            self.unavailable_reason() is None
            and _NAME in _run("kind", "get", "clusters").split()
            and KUBECONFIG.exists()
        )

    def up(self) -> None:
        if self.is_up():
            return
        if reason := self.unavailable_reason():
            raise ProviderFailed(reason)
        # Fail before spending minutes on a cluster that cannot be used without these.
        for name in ("kubectl", "helm"):
            program(name)
        KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
        _run("kind", "create", "cluster", f"--config={_CONFIG}", f"--kubeconfig={KUBECONFIG}", "--wait=120s")

    def down(self) -> None:
        _run("kind", "delete", "cluster", f"--name={_NAME}")
        KUBECONFIG.unlink(missing_ok=True)

    def load(self, archives: Sequence[Path]) -> None:
        for archive in archives:
            _run("kind", "load", "image-archive", str(archive), f"--name={_NAME}")

    def tag(self, image: str, another: str) -> None:
        _run("docker", "exec", _NODE, "ctr", "-n", "k8s.io", "images", "tag", "--force", _full(image), _full(another))

    def restart_api_server(self) -> None:
        _run("docker", "exec", _NODE, "pkill", "-9", "kube-apiserver")
        # It is a static pod, so the kubelet restarts it.
        deadline = time.monotonic() + _API_SECONDS
        while not _succeeds(program("kubectl"), f"--kubeconfig={KUBECONFIG}", "get", "--raw=/readyz"):
            if time.monotonic() > deadline:
                raise ProviderFailed(f"the API server was not ready again within {_API_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)


def _full(image: str) -> str:
    """Return the full name of an image, as used by containerd."""
    return f"docker.io/library/{image}"


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProviderFailed(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    return done.stdout
