"""File locations and network addresses of the cluster."""

from __future__ import annotations

from pathlib import Path

from tools.clusters.base import ROOT

NAME = "whisper-e2e"
"""Name of the node, the control group and the link to this machine."""

STATE = ROOT / "var" / "e2e" / "local"
RUN = STATE / "run"
"""State of a running cluster; `down` removes it."""
VOLUMES = RUN / "volumes"
"""A folder for each PersistentVolume."""
LOGS = STATE / "logs"
"""Logs of the last run; `up` empties it."""
IMAGES = STATE / "containerd"
"""Images are kept when the cluster is stopped, because importing several GB takes a minute."""

# From the benchmarking range of RFC 2544, which is not routed on real networks.
HOST_ADDRESS = "198.18.0.1"
NODE_ADDRESS = "198.18.0.2"
LINK_BITS = 30
POD_RANGE = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/16"
API_PORT = "6443"
API_URL = f"https://{NODE_ADDRESS}:{API_PORT}"
DOMAIN = "cluster.local"

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
"""Inside the machine's mount namespace, which has its own /run."""
CERTIFICATES = RUN / "certificates"
CA_FILE = CERTIFICATES / "apiserver.crt"
"""The self-signed certificate that the API server generates."""
ADMIN_KUBECONFIG = RUN / "admin.kubeconfig"
