"""Requests to the API server."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from kubernetes.aio import client
from kubernetes.aio.config import kube_config

from testing.simulated_api import Answer
from whisper_cluster.api import PODS, Cluster, connected_cluster
from whisper_cluster.errors import ClusterError, NotLeading
from whisper_cluster.names import OPERATOR
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.runtime.metrics import Metrics

Json = dict[str, Any]


class Pages:
    """An API server that lists one object per page.

    connections: what each request wants to become of its own. sent: how many requests arrived.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.connections: list[str | None] = []
        self.sent = 0

    async def param_serialize(
        self, method: str, resource_path: str, *, query_params: list[tuple[str, str]], header_params: Json, **_: Any
    ) -> tuple[object, ...]:
        self.connections.append(header_params.get("Connection"))
        return (dict(query_params).get("continue", "0"),)

    async def call_api(self, token: str, _request_timeout: float) -> Answer:
        self.sent += 1
        number = int(token)
        left = {"continue": str(number + 1)} if number + 1 < len(self.names) else {}
        items = [{"metadata": {"name": name}} for name in self.names[number : number + 1]]
        return Answer(200, json.dumps({"items": items, "metadata": left}).encode())

    def cluster(self) -> Cluster:
        counter = Metrics(model_metrics=ModelMetrics(), queue_depth=lambda: 0.0)
        return Cluster(cast("client.ApiClient", self), counter=counter, field_manager=OPERATOR)


async def listed(cluster: Cluster) -> list[Any]:
    return [cast("Json", one["metadata"])["name"] async for one in cluster.list_all(PODS, None)]


def test_list_follows_all_pages() -> None:
    assert asyncio.run(listed(Pages("a", "b", "c").cluster())) == ["a", "b", "c"]
    assert asyncio.run(listed(Pages().cluster())) == []


def test_list_closes_its_connection() -> None:
    pages = Pages("a", "b")
    asyncio.run(listed(pages.cluster()))
    assert pages.connections == ["close", "close"]
    asyncio.run(pages.cluster().get(PODS, "speech", "a"))
    asyncio.run(pages.cluster().list_few(PODS, "speech", labels="app=a"))
    assert pages.connections[2:] == [None, None], "short responses keep it"


async def test_fenced_cluster_reads_always_and_writes_only_while_allowed() -> None:
    pages, may_act = Pages("a"), False
    cluster = pages.cluster()
    fenced = cluster.fenced(lambda: may_act)
    one: Json = {"metadata": {"namespace": "speech", "name": "a", "resourceVersion": "1"}}
    for write in (fenced.apply, fenced.create, fenced.replace):
        with pytest.raises(NotLeading, match=r"speech/pods.*not sent: the lease has expired"):
            await write(PODS, one)
    assert pages.sent == 0
    assert await listed(fenced) == ["a"]
    await cluster.apply(PODS, one)
    may_act = True
    await fenced.apply(PODS, one)
    assert pages.sent == 3


async def test_invalid_kubeconfig_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", "/dev/null")
    with pytest.raises(
        ClusterError, match=r"read the kubeconfig: not a valid kubeconfig: run in a pod, or set KUBECONF"
    ):
        async with connected_cluster(
            Metrics(model_metrics=ModelMetrics(), queue_depth=lambda: 0.0), field_manager=OPERATOR, user_agent="a"
        ):
            pass
