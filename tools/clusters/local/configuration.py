"""Configuration files of the cluster's programs."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path

import yaml

from tools.clusters.base import KUBECONFIG
from tools.clusters.local.layout import (
    ADMIN_KUBECONFIG,
    API_URL,
    CA_FILE,
    CONTAINERD_SOCKET,
    DOMAIN,
    IMAGES,
    NAME,
    NODE_ADDRESS,
    POD_RANGE,
    RUN,
)

CONTEXT = "whisper-e2e-local"
PAUSE_IMAGE = "docker.io/library/whisper-e2e-pause:1"

CONTAINERD = RUN / "containerd.toml"
COREDNS = RUN / "Corefile"
KUBELET = RUN / "kubelet.yaml"
KUBE_PROXY = RUN / "kube-proxy.yaml"
SERVICE_ACCOUNTS_KEY = RUN / "service-accounts.key"
TOKENS = RUN / "tokens.csv"
_CNI = RUN / "cni"

_CONTAINERD_TOML = f"""
version = 2
root = "{IMAGES}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE, runc cannot set the OOM score of the pause container and fails with "EOF".
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{_CNI}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""

_COREFILE = f"""
{DOMAIN} in-addr.arpa ip6.arpa {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {ADMIN_KUBECONFIG}
        ttl 5
    }}
}}
. {{
    bind {NODE_ADDRESS}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""

_NETWORK = {
    "cniVersion": "0.4.0",
    "name": NAME,
    "plugins": [
        # Point-to-point links instead of a bridge: all traffic is routed, so kube-proxy sees it without br_netfilter.
        {
            "type": "ptp",
            "mtu": 1500,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_RANGE}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "address": NODE_ADDRESS,
    # Only the API server and test pods can reach it; this machine is blocked (machine.py).
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "cgroupRoot": f"/{NAME}",
    "clusterDNS": [NODE_ADDRESS],
    "clusterDomain": DOMAIN,
    "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
    "enforceNodeAllocatable": ["none"],
    "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    "failCgroupV1": False,
    "failSwapOn": False,
    "imageGCHighThresholdPercent": 100,
    "resolvConf": "",
    "serializeImagePulls": False,
}

_KUBE_PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "clientConnection": {"kubeconfig": str(ADMIN_KUBECONFIG)},
    "clusterCIDR": POD_RANGE,
    "hostnameOverride": NAME,
    # These limits are global to the machine, so leave them alone.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
}


def write() -> None:
    """Write all files for a new start of the cluster."""
    token = secrets.token_urlsafe(24)
    CONTAINERD.write_text(_CONTAINERD_TOML)
    COREDNS.write_text(_COREFILE)
    _CNI.mkdir(exist_ok=True)
    (_CNI / "10-pods.conflist").write_text(json.dumps(_NETWORK))
    KUBELET.write_text(yaml.safe_dump(_KUBELET))
    KUBE_PROXY.write_text(yaml.safe_dump(_KUBE_PROXY))
    TOKENS.write_text(f'{token},admin,admin,"system:masters"\n')
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA", "-out", str(SERVICE_ACCOUNTS_KEY)], check=True, capture_output=True
    )
    for path in (ADMIN_KUBECONFIG, KUBECONFIG):
        _write_kubeconfig(path, token)


def _write_kubeconfig(path: Path, token: str) -> None:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": API_URL, "certificate-authority": str(CA_FILE)}}],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)
