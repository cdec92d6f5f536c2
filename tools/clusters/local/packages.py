"""Debian packages that the cluster requires, installed if they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tools.clusters.base import ROOT, ProviderFailed

_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "ctr": "containerd",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "socat": "socat",
    "openssl": "openssl",
    "ip": "iproute2",
    "sysctl": "procps",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/bin/busybox": "busybox-static",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
"""Packages by program. The last two are for building images."""


def unavailable_reason() -> str | None:
    """Return why the cluster cannot run on this machine, or None if it can."""
    if os.geteuid() != 0:
        return "the local cluster requires root, to create namespaces and containers"
    if missing := _missing():
        return None if shutil.which("apt-get") else f"missing packages: install {' '.join(missing)}"
    return None


def require() -> None:
    """Install packages and build programs that are missing. Raises ProviderFailed."""
    if reason := unavailable_reason():
        raise ProviderFailed(reason)
    if subprocess.run(["make", "--silent", "cluster-tools"], cwd=ROOT, check=False).returncode != 0:
        raise ProviderFailed("'make cluster-tools' failed; see its output above")
    if missing := _missing():
        print(f"installing {' '.join(missing)}")
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *missing)


def _missing() -> list[str]:
    return sorted({package for program, package in _PACKAGES.items() if not _is_installed(program)})


def _is_installed(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-qq", *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProviderFailed(f"'apt-get {' '.join(arguments)}' failed: {done.stderr.strip()}")
