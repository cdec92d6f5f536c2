"""The programs of the cluster: commands, start and stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tools.clusters.base import BINARIES, ProviderFailed
from tools.clusters.local import cgroups, configuration, machine
from tools.clusters.local.layout import (
    ADMIN_KUBECONFIG,
    CA_FILE,
    CERTIFICATES,
    LOGS,
    NAME,
    NODE_ADDRESS,
    RUN,
    SERVICE_RANGE,
)

_START_SECONDS = 90.0
"""Allows for slow machines; the API server usually takes about three seconds."""
_POLL_SECONDS = 0.05

COMMANDS: Mapping[str, list[str]] = {
    "containerd": ["containerd", f"--config={configuration.CONTAINERD}"],
    "etcd": [
        str(BINARIES / "etcd"),
        f"--data-dir={RUN / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ],
    "kube-apiserver": [
        str(BINARIES / "kube-apiserver"),
        "--etcd-servers=http://127.0.0.1:2379",
        f"--cert-dir={CERTIFICATES}",
        f"--advertise-address={NODE_ADDRESS}",
        "--allow-privileged=true",
        "--authorization-mode=RBAC",
        f"--token-auth-file={configuration.TOKENS}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={configuration.SERVICE_ACCOUNTS_KEY}",
        f"--service-account-signing-key-file={configuration.SERVICE_ACCOUNTS_KEY}",
        # For kubectl logs, exec and port-forward, because the node's name does not resolve.
        "--kubelet-preferred-address-types=InternalIP",
        "--shutdown-delay-duration=0s",
    ],
    "kube-controller-manager": [
        str(BINARIES / "kube-controller-manager"),
        f"--kubeconfig={ADMIN_KUBECONFIG}",
        f"--root-ca-file={CA_FILE}",
        f"--service-account-private-key-file={configuration.SERVICE_ACCOUNTS_KEY}",
        "--leader-elect=false",
    ],
    "kube-scheduler": [str(BINARIES / "kube-scheduler"), f"--kubeconfig={ADMIN_KUBECONFIG}", "--leader-elect=false"],
    "kube-proxy": [str(BINARIES / "kube-proxy"), f"--config={configuration.KUBE_PROXY}"],
    "kubelet": [
        str(BINARIES / "kubelet"),
        f"--config={configuration.KUBELET}",
        f"--kubeconfig={ADMIN_KUBECONFIG}",
        f"--hostname-override={NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ],
    "coredns": [str(BINARIES / "coredns"), f"-conf={configuration.COREDNS}"],
}
"""In start order."""


def start(name: str) -> None:
    """Start a program in the machine as a daemon, with a pid file and a log."""
    script = f'echo $$ > {_pid_file(name)} && exec "$@"'
    with (LOGS / f"{name}.log").open("ab") as output:
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", script, "sh", *machine.inside(COMMANDS[name])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )
    wait_for(_pid_file(name).exists, f"{name} has started")


def kill(name: str) -> None:
    """Kill a program and wait until it has exited."""
    pid = _pid(name)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid not in cgroups.members(), f"{name} has exited")
    _pid_file(name).unlink()


def running() -> dict[str, int]:
    """Return the pids of the running programs, ignoring pids that have been reused by other processes."""
    members = cgroups.members()
    pids = {name: _pid(name) for name in COMMANDS if _pid_file(name).exists()}
    return {name: pid for name, pid in pids.items() if pid in members}


def wait_for(condition: Callable[[], bool], description: str) -> None:
    """Wait for a condition. Raises ProviderFailed with the last log lines of each program that has exited."""
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ProviderFailed(
                f"timed out after {_START_SECONDS:.0f} s waiting until {description}; logs: {LOGS}{_exited()}"
            )
        time.sleep(_POLL_SECONDS)


def _exited() -> str:
    started = [name for name in COMMANDS if _pid_file(name).exists()]
    return "".join(f"\n{name} has exited: {_last_lines(name)}" for name in started if name not in running())


def _last_lines(name: str) -> str:
    return "\n".join((LOGS / f"{name}.log").read_text(errors="replace").splitlines()[-5:])


def _pid(name: str) -> int:
    return int(_pid_file(name).read_text())


def _pid_file(name: str) -> Path:
    return RUN / "pids" / name
