"""Comparing the cache with the API server's lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from testing.operator_harness import LABEL
from whisper_cluster.api import PODS, Cluster, Kind
from whisper_cluster.cache import Store
from whisper_cluster.resync import Resync
from whispermodel.key import Key

Json = dict[str, Any]


class Lists:
    """A cluster that lists these pods, and nothing else."""

    def __init__(self, *pods: Json) -> None:
        self.pods = list(pods)

    async def list_all(self, kind: Kind, namespace: str | None, *, labels: str = "") -> AsyncGenerator[Json]:
        for pod in self.pods if kind is PODS else ():
            yield pod


def pod(name: str, **status: Any) -> Json:
    metadata = {"name": name, "namespace": "speech", "resourceVersion": "1", "labels": {LABEL: "base"}}
    return {"metadata": metadata, "status": status}


def test_invalid_object_does_not_hide_others() -> None:
    store = Store.empty()
    lists = Lists(pod("odd", containerStatuses="none"), pod("base-1", phase="Running"))
    resync = Resync(cast("Cluster", lists), store, (), lambda key, *, after: None, every=300.0)
    asyncio.run(resync.once())
    assert store.pods.keys() == {Key("speech", "base-1")}
