"""Prerequisites: of the local cluster's node, this machine's users can reach only the API server."""

from __future__ import annotations

import socket

import pytest

from e2e.cluster import Cluster
from tools.clusters.local.cluster import LocalCluster
from tools.clusters.local.layout import API_PORT, NODE_ADDRESS

KUBELET, DNS, PROXY_HEALTH = 10250, 53, 10256


@pytest.mark.parametrize("port", [KUBELET, DNS, PROXY_HEALTH])
def test_only_the_api_server_is_reachable(cluster: Cluster, port: int) -> None:
    if cluster.context != LocalCluster.context:
        pytest.skip("applies only to the local cluster")
    socket.create_connection((NODE_ADDRESS, int(API_PORT)), timeout=5).close()
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection((NODE_ADDRESS, port), timeout=2)
