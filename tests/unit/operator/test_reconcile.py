"""What one reconciliation leaves to the next: against an API server in memory, with a pod's server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from kubernetes.aio import client

from benchmarks.operator_bench.simulated_api import Answer, SimulatedApi
from tests.operator_scene import LABEL, NOON
from whisper_operator.board import Board
from whisper_operator.cluster import NETWORK_POLICIES, WHISPER_MODELS, Cluster
from whisper_operator.errands import Errands
from whisper_operator.events import Recorder
from whisper_operator.keys import Keys
from whisper_operator.kinds import Pod, WhisperModelObject
from whisper_operator.metrics import Metrics
from whisper_operator.pods import Pods, Reply
from whisper_operator.reconcile import Reconciler, Surroundings
from whisper_operator.resources.deployment import Defaults
from whisper_operator.store import Key, Store
from whispermodel.status import Status

KEY = Key("speech", "base")
PATH = WHISPER_MODELS.path(KEY.namespace, KEY.name)
UNLOADED = b'{"state": "Unloaded", "idle_seconds": 0, "in_flight": 0, "queued": 0}'
LOADED = b'{"device": "cpu", "load_seconds": 2.5, "phases": {}}'


class Busy(SimulatedApi):
    """An API server to which somebody else writes a spec just before a status arrives."""

    coming: dict[str, Any] | None = None

    async def call_api(self, *request: Any, _request_timeout: float) -> Answer:
        if request[1].endswith("/status") and self.coming is not None:
            spec, self.coming = self.coming, None
            self.put(PATH, {**self.objects[PATH], "spec": spec})
        return await super().call_api(*request, _request_timeout=_request_timeout)


class Server:
    """A pod's: unloaded, and it loads what it is asked to."""

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        if url.endswith("/model/status"):
            return Reply(200, UNLOADED)
        return Reply(200, LOADED if url.endswith("/model/load") else b"")


class Around:
    """One model and all that reconciling it needs."""

    def __init__(self, *, allow_from: Sequence[Any] | None = None, **spec: Any) -> None:
        self.now = NOON
        self.api = Busy(lambda path, now, last: None)
        self.store = Store.empty()
        self.seen: list[Key] = []
        self.restart(allow_from=allow_from)
        self.ask(**spec)

    def restart(self, *, allow_from: Sequence[Any] | None) -> None:
        """Begin anew with what the watches have shown."""
        board = Board()
        cluster = Cluster(cast("client.ApiClient", self.api), counter=Metrics(board=board, queue_depth=lambda: 0.0))
        self.reconciler = Reconciler(
            Surroundings(
                store=self.store,
                cluster=cluster,
                pods=Pods(Server()),
                errands=Errands(on_outcome=self.seen.append),
                keys=Keys(cluster),
                recorder=Recorder(cluster, instance="test"),
                board=board,
                defaults=Defaults("whisper-inference:0.1.0"),
                allow_from=allow_from,
                clock=lambda: self.now,
            )
        )

    def ask(self, **spec: Any) -> None:
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        body = {**self.api.objects.get(PATH, {}), "metadata": metadata, "spec": {"model": {"size": "base"}, **spec}}
        self.store.models.put(WhisperModelObject.model_validate(self.api.put(PATH, body)))

    def start_pod(self) -> None:
        metadata = {"name": "base-1", "namespace": KEY.namespace, "uid": "uid-base-1", "labels": {LABEL: KEY.name}}
        ready = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": "10.0.0.7", "conditions": ready}
        self.store.pods.put(Pod.model_validate({"metadata": metadata, "status": status}))

    async def reconcile(self) -> datetime | None:
        check_at = await self.reconciler.reconcile(KEY)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return check_at

    @property
    def status(self) -> Status:
        return Status.model_validate(self.api.objects[PATH]["status"])


def test_a_spec_that_changed_while_the_status_was_written_is_looked_at_at_once() -> None:
    async def scene() -> None:
        around = Around(desiredState="Zero")
        around.api.coming = {"model": {"size": "base"}, "desiredState": "Loaded"}
        assert await around.reconcile() == NOON
        assert await around.reconcile() != NOON
        assert around.status.target == "Loaded"

    asyncio.run(scene())


def test_a_start_takes_no_longer_than_somebody_waits_for_the_model() -> None:
    async def scene() -> None:
        around = Around(desiredState="Unloaded")
        await around.reconcile()
        around.start_pod()
        await around.reconcile()
        around.now += timedelta(hours=9)
        around.ask(desiredState="Loaded")
        await around.reconcile()
        await around.reconcile()
        assert around.status.recent_start_seconds == (2.5,)

    asyncio.run(scene())


def test_who_may_reach_the_pods_is_applied_once_and_taken_back_when_everybody_may_again() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "gateway"}}}
    path = NETWORK_POLICIES.path(KEY.namespace, KEY.name)

    async def scene() -> None:
        around = Around(allow_from=[peer], desiredState="Zero")
        await around.reconcile()
        assert around.api.objects[path]["spec"]["ingress"] == [{"from": [peer]}]
        version = around.api.objects[path]["metadata"]["resourceVersion"]
        await around.reconcile()
        assert around.api.objects[path]["metadata"]["resourceVersion"] == version
        around.restart(allow_from=None)
        await around.reconcile()
        assert around.api.objects[path]["spec"]["ingress"] == [{}]

    asyncio.run(scene())


def test_without_that_setting_there_is_no_policy() -> None:
    async def scene() -> None:
        around = Around(desiredState="Zero")
        await around.reconcile()
        assert NETWORK_POLICIES.path(KEY.namespace, KEY.name) not in around.api.objects

    asyncio.run(scene())
