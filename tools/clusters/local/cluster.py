"""The local cluster: start, stop, and readiness."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx
import yaml

from tools.clusters.base import KUBECONFIG
from tools.clusters.local import cgroups, configuration, images, machine, ownership, packages, programs, volumes
from tools.clusters.local.layout import ADMIN_KUBECONFIG, API_URL, CA_FILE, IMAGES, LOGS, NAME, RUN

_BEFORE_THE_API = ("containerd", "etcd", "kube-apiserver")


class LocalCluster:
    """A cluster with one node in its own Linux namespaces on this machine."""

    context = configuration.CONTEXT
    needs_base_image = True

    def unavailable_reason(self) -> str | None:
        return packages.unavailable_reason()

    def is_up(self) -> bool:
        return set(programs.running()) == set(programs.COMMANDS) and node_is_ready()

    def up(self) -> None:
        if self.is_up():
            return
        packages.require()
        self.down()
        _make_folders()
        configuration.write()
        with ownership.claimed() as lock:
            machine.start(lock)
        for name in _BEFORE_THE_API:
            programs.start(name)
        programs.wait_for(images.runtime_is_ready, "containerd is ready")
        images.load_pause()
        programs.wait_for(api_is_ready, "the API server is ready")
        for name in programs.COMMANDS:
            if name not in _BEFORE_THE_API:
                programs.start(name)
        programs.wait_for(node_is_ready, "the node is Ready")
        volumes.create()

    def down(self) -> None:
        ownership.require_ownership()
        cgroups.end_members()
        cgroups.remove()
        shutil.rmtree(RUN, ignore_errors=True)
        KUBECONFIG.unlink(missing_ok=True)

    def load(self, archives: Sequence[Path]) -> None:
        images.load(archives)

    def tag(self, image: str, another: str) -> None:
        images.tag(image, another)

    def restart_api_server(self) -> None:
        programs.kill("kube-apiserver")
        programs.start("kube-apiserver")
        programs.wait_for(api_is_ready, "the API server is ready again")


def api_is_ready() -> bool:
    """Return whether the API server is ready."""
    return _get("/readyz") is not None


def node_is_ready() -> bool:
    """Return whether pods can be scheduled, and have a service account to run as."""
    node = _get(f"/api/v1/nodes/{NAME}")
    account = _get("/api/v1/namespaces/default/serviceaccounts/default")
    if node is None or account is None:
        return False
    conditions = node.json()["status"].get("conditions", [])
    is_ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return is_ready and not node.json()["spec"].get("taints")


def _get(path: str) -> httpx.Response | None:
    if not CA_FILE.exists() or not ADMIN_KUBECONFIG.exists():
        return None
    token = yaml.safe_load(ADMIN_KUBECONFIG.read_text())["users"][0]["user"]["token"]
    try:
        trust = ssl.create_default_context(cafile=str(CA_FILE))
        answer = httpx.get(
            f"{API_URL}{path}", headers={"Authorization": f"Bearer {token}"}, verify=trust, timeout=10, trust_env=False
        )
    except (httpx.TransportError, ssl.SSLError):
        return None
    return answer if answer.is_success else None


def _make_folders() -> None:
    shutil.rmtree(LOGS, ignore_errors=True)
    for folder in (RUN, LOGS, IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    RUN.chmod(0o700)
