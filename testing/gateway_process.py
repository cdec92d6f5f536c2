"""The gateway as a process, with exactly the rights that the chart grants."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from testing.api_server import ROOT, ApiServer, free_port
from testing.child_process import WAIT_SECONDS, ChildProcess
from testing.operator_process import eventually, grant_cluster_role

RULES = ROOT / "deploy" / "helm" / "whisper-operator" / "files" / "gateway-rules.yaml"
KEYS = {"ana": ["use"], "bea": ["use"], "boss": ["control"], "auditor": ["admin"]}
"""The scopes of each client's key, which is its name."""

Json = dict[str, Any]


def grant_gateway_rights(api: ApiServer) -> None:
    """Grant the user `gateway` the gateway's role in all namespaces."""
    grant_cluster_role(api, "whisper-gateway", yaml.safe_load(RULES.read_text()), user="gateway")


@dataclass
class GatewayProcess(ChildProcess):
    """One gateway, which can be killed and restarted on the same data."""

    api: ApiServer
    """The API server that it watches."""
    folder: Path
    """Its data and its log."""
    environment: dict[str, str]
    """Its settings."""
    port: int = field(default_factory=free_port)
    """Where it listens."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    def client(self, key: str = "ana", **headers: str) -> httpx.Client:
        """Return a client with somebody's key."""
        given = {"Authorization": f"Bearer {key}", **headers}
        return httpx.Client(base_url=self.url, headers=given, timeout=WAIT_SECONDS, trust_env=False)

    def start(self, *, wait: bool = True) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.api.kubeconfig("gateway")),
            "WHISPER_PORT": str(self.port),
            "WHISPER_DATA_DIR": str(self.folder / "data"),
            "WHISPER_API_KEYS_FILE": str(self._keys_file()),
            **self.environment,
        }
        self.spawn("whisper_inference", "gateway", environment=environment, log=self.log, cwd=self.folder)
        if wait:
            eventually(self.is_ready, "the gateway is ready")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _keys_file(self) -> Path:
        path = self.folder / "keys.yaml"
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in KEYS}
        path.write_text(json.dumps([{"name": n, "sha256": digests[n], "scopes": KEYS[n]} for n in KEYS]))
        return path


@contextmanager
def running_gateway(api: ApiServer, folder: Path, *, namespace: str, **environment: str) -> Iterator[GatewayProcess]:
    """Run a gateway for one namespace until the block ends; print its log for pytest's report."""
    folder.mkdir(exist_ok=True)
    given = {"WHISPER_NAMESPACE": namespace, "WHISPER_NAMESPACES": namespace, "WHISPER_GATEWAY_ID": "gateway-0"}
    gateway = GatewayProcess(api, folder, given | environment)
    gateway.start()
    try:
        yield gateway
    finally:
        if gateway.is_running:
            gateway.stop(signal.SIGKILL)
        print(gateway.log.read_text())
