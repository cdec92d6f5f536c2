"""Where the cluster keeps what it writes, and the addresses in it."""

from __future__ import annotations

from pathlib import Path

from tools.clusters.base import ROOT

NAME = "whisper-e2e"
"""Of the node, the control group and the link to this machine."""

STATE = ROOT / "var" / "e2e" / "local"
RUN = STATE / "run"
"""What belongs to one life of the cluster; `down` removes it."""
LOGS = STATE / "logs"
"""Of the last life; `up` empties it."""
IMAGES = STATE / "containerd"
"""Images outlive the cluster, for an import of some GB takes a minute."""

# Addresses of RFC 2544, which no network uses and nobody routes.
HOST_ADDRESS = "198.18.0.1"
NODE_ADDRESS = "198.18.0.2"
LINK_BITS = 30
POD_RANGE = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/16"
API_PORT = "6443"
API_URL = f"https://{NODE_ADDRESS}:{API_PORT}"
DOMAIN = "cluster.local"

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
"""Inside the machine, whose /run is its own."""
CERTIFICATES = RUN / "certificates"
CA_FILE = CERTIFICATES / "apiserver.crt"
"""What the API server makes for itself: its certificate with the authority's."""
ADMIN_KUBECONFIG = RUN / "admin.kubeconfig"
