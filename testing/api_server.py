"""A real Kubernetes API server with its database, and the controllers that a test asks for.

Its data lies in a folder of the test run, and everything ends with the test process, whatever happens to that.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from testing.paths import ROOT

CRD = ROOT / "crds" / "whispermodels.yaml"
NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
HOW_TO_GET_THEM = (
    "there is no API server to test with: run 'make tools', or set KUBEBUILDER_ASSETS to a folder with one"
)

USERS = {"admin": "system:masters", "operator": "", "gateway": "", "somebody": ""}
"""The users, and the group of each. Only the administrator may do anything before a test grants it."""

START_SECONDS = 60
STOP_SECONDS = 20
"""Deadlines for slow machines; a start takes some four seconds, a stop less than one."""

CONTROLLERS = ("garbage-collector-controller", "deployment-controller", "replicaset-controller", "namespace-controller")
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}
# PR_SET_PDEATHSIG survives the exec, so the child needs no knowledge of it.
_TIED_TO_US = """
import os, sys
from whisper_inference.parentage import die_with_parent
die_with_parent(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""

Json = dict[str, Any]


def binaries() -> Path | None:
    """Return the folder that holds the programs, if there is one."""
    folder = Path(os.environ.get("KUBEBUILDER_ASSETS") or ROOT / ".tools" / "bin")
    return folder if all(os.access(folder / name, os.X_OK) for name in NEEDED) else None


@dataclass
class Program:
    """One of the programs, which can be ended and started again with the same arguments."""

    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", _TIED_TO_US, str(os.getpid()), *self.command]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait for that; one that does not end in time is killed."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        self.process = None

    def wait_for(self, fact: Callable[[], bool], what: str) -> None:
        """Wait for a fact that the program brings about; fail with its log when it ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not fact():
            ended = self.process is None or self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                lines = self.log.read_text(errors="replace").splitlines()[-40:]
                raise AssertionError("\n".join([f"{what}: not so, and {self.command[0]} says:", *lines]))
            time.sleep(0.02)


@dataclass
class ApiServer:
    """A started API server. audit_log: a JSON line for each write."""

    url: str
    folder: Path
    etcd: Program
    server: Program
    programs: Path
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    @property
    def certificate(self) -> Path:
        """What the server proves itself by."""
        return self.folder / "certificates" / "apiserver.crt"

    def token(self, user: str = "admin") -> str:
        assert user in USERS, user
        return f"token-of-{user}"

    def kubeconfig(self, user: str = "admin") -> Path:
        """Return a kubeconfig for one of the users."""
        path = self.folder / f"{user}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": user, "context": {"cluster": "test", "user": user, "namespace": "default"}}],
            "current-context": user,
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def client(self, user: str = "admin") -> httpx.Client:
        """Return a client that speaks as one of the users."""
        if user not in self._clients:
            trust = ssl.create_default_context(cafile=str(self.certificate))
            headers = {"Authorization": f"Bearer {self.token(user)}"}
            self._clients[user] = httpx.Client(base_url=self.url, verify=trust, headers=headers, timeout=30)
        return self._clients[user]

    def kubectl(self, *arguments: str, user: str = "admin") -> str:
        """Run kubectl and return what it prints; fail with what it complains of."""
        command = [str(self.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig(user)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, path: str, body: Json) -> Json:
        """Apply an object as the administrator, server-side."""
        answer = self.client().patch(
            path,
            params={"fieldManager": "tests", "force": "true"},
            content=json.dumps(body),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        assert answer.is_success, answer.text
        return answer.json()

    def make_namespace(self, name: str) -> str:
        """Make a namespace and return its name."""
        self.apply(f"/api/v1/namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def writes(self) -> list[Json]:
        """Return the audit events so far, one for each write."""
        if not self.audit_log.exists():
            return []
        lines = self.audit_log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the API server alone; its data stays."""
        self.server.stop(how)

    def start(self) -> None:
        """Start the API server, on the same address as before."""
        self.server.start()
        self.server.wait_for(self._is_ready, "/readyz answers")

    def end(self) -> None:
        """End everything."""
        for client in self._clients.values():
            client.close()
        self.server.stop(signal.SIGKILL)
        self.etcd.stop(signal.SIGKILL)

    def _is_ready(self) -> bool:
        try:
            return self.certificate.exists() and self.client().get("/readyz").is_success
        except (httpx.TransportError, ssl.SSLError):
            return False


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextmanager
def running_api_server(folder: Path, programs: Path) -> Iterator[ApiServer]:
    """Run an API server that knows WhisperModels until the block ends."""
    (folder / "certificates").mkdir()
    database, port = f"http://127.0.0.1:{free_port()}", free_port()
    etcd = Program(_etcd(programs, folder, url=database), folder / "etcd.log")
    server = Program(_kube_apiserver(programs, folder, database=database, port=port), folder / "kube-apiserver.log")
    api = ApiServer(f"https://127.0.0.1:{port}", folder, etcd, server, programs)
    try:
        etcd.start()
        api.start()
        _install_crd(api)
        yield api
    finally:
        api.end()


@contextmanager
def running_controllers(api: ApiServer) -> Iterator[Program]:
    """Run the garbage collector and the controllers of Deployments, ReplicaSets and namespaces until the block ends."""
    command = [
        str(api.programs / "kube-controller-manager"),
        f"--kubeconfig={api.kubeconfig()}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    controllers = Program(command, api.folder / "kube-controller-manager.log")
    controllers.start()
    try:
        yield controllers
    finally:
        controllers.stop(signal.SIGKILL)


def _etcd(programs: Path, folder: Path, *, url: str) -> list[str]:
    return [
        str(programs / "etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _kube_apiserver(programs: Path, folder: Path, *, database: str, port: int) -> list[str]:
    key, tokens, policy = folder / "service-accounts.key", folder / "tokens.csv", folder / "audit-policy.json"
    key.write_text(_elliptic_key())
    tokens.write_text("".join(f'token-of-{user},{user},{user},"{group}"\n' for user, group in USERS.items()))
    policy.write_text(json.dumps(AUDIT_POLICY))
    return [
        str(programs / "kube-apiserver"),
        f"--etcd-servers={database}",
        f"--cert-dir={folder / 'certificates'}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        "--authorization-mode=RBAC",
        f"--token-auth-file={tokens}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        # It would wait for accounts that only a controller makes.
        "--disable-admission-plugins=ServiceAccount",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={folder / 'audit.log'}",
        # A test that stops it does not wait for its watches to end by themselves.
        "--shutdown-delay-duration=0s",
    ]


def _elliptic_key() -> str:
    """Return a new private key for P-256 as PEM (RFC 5915): the order of the curve is a little less than 2**256."""
    number = secrets.randbelow(2**255) + 1
    der = (
        bytes.fromhex("303102010104") + b"\x20" + number.to_bytes(32, "big") + bytes.fromhex("a00a06082a8648ce3d030107")
    )
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}-----END EC PRIVATE KEY-----\n"


def _install_crd(api: ApiServer) -> None:
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    api.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
    models = "/apis/audio-transcriber.io/v1alpha1/whispermodels"
    api.server.wait_for(lambda: api.client().get(models).is_success, "WhisperModels can be listed")
