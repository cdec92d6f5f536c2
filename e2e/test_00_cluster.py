"""Before the stories: the cluster without Docker lets this machine's users reach its API server and nothing else."""

from __future__ import annotations

import socket

import pytest

from e2e.cluster import Cluster
from tools.clusters.local.cluster import LocalCluster
from tools.clusters.local.layout import API_PORT, NODE_ADDRESS

KUBELET, DNS, PROXY_HEALTH = 10250, 53, 10256


@pytest.mark.parametrize("port", [KUBELET, DNS, PROXY_HEALTH])
def test_nobody_reaches_the_node_past_its_api_server(cluster: Cluster, port: int) -> None:
    if cluster.context != LocalCluster.context:
        pytest.skip("another cluster's nodes are its owner's")
    socket.create_connection((NODE_ADDRESS, int(API_PORT)), timeout=5).close()
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection((NODE_ADDRESS, port), timeout=2)
