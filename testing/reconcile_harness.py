"""Reconciles one WhisperModel, with an API server in memory and a pod's server in this process."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from kubernetes.aio import client

from testing import pod_answers
from testing.operator_harness import LABEL, NOON
from testing.simulated_api import Answer, SimulatedApi
from whisper_cluster.api import DEPLOYMENTS, LEASES, WHISPER_MODELS, Cluster
from whisper_cluster.cache import Store
from whisper_cluster.leases import Lease
from whisper_cluster.names import OPERATOR
from whisper_cluster.objects import Deployment, Pod, WhisperModelObject
from whisper_cluster.pods import Http, PodClient, Reply
from whisper_operator.reconcile.calls_in_progress import PodCalls
from whisper_operator.reconcile.events import Recorder
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.reconcile.pod_keys import PodKeys
from whisper_operator.reconcile.reconciler import Dependencies, Reconciler
from whisper_operator.resources.deployment import Defaults
from whisper_operator.runtime.metrics import Metrics
from whispermodel.key import Key
from whispermodel.status import Condition, Status

KEY = Key("speech", "base")
PATH = WHISPER_MODELS.path(KEY.namespace, KEY.name)
UNLOADED = json.dumps(pod_answers.status("Unloaded")).encode()
_FREED = {"ram_mb": 360, "vram_mb": 0}
UNLOAD = json.dumps(pod_answers.unloaded(device_was="cpu", memory_freed=_FREED, fully_released=True)).encode()
LOADED = json.dumps(pod_answers.loaded(device="cpu", load_seconds=2.5)).encode()


class RecordingApi(SimulatedApi):
    """An API server that records writes, can refuse a path, and can change the spec just before a status write.

    writes: in order, the state of each status, or the path. reads: the paths read. forbids: a path that nobody may
    write. fails: a path that cannot be read. coming: a spec that somebody else writes just before the next status.
    """

    coming: dict[str, Any] | None = None
    forbids: str | None = None
    fails: str | None = None
    writes: list[str]
    reads: list[str]

    async def call_api(self, *request: Any, _request_timeout: float) -> Answer:
        if request[0] == "GET":
            self.reads.append(request[1])
        if request[0] == "GET" and request[1] == self.fails:
            return Answer(503, b'{"code": 503, "message": "etcdserver: request timed out"}')
        if request[0] != "GET":
            self.writes.append(request[2].get("status", {}).get("state") or request[1])
        if request[0] != "GET" and request[1] == self.forbids:
            return Answer(403, b'{"code": 403, "message": "exceeded quota: none"}')
        if request[1].endswith("/status") and self.coming is not None:
            spec, self.coming = self.coming, None
            self.put(PATH, {**self.objects[PATH], "spec": spec})
        return await super().call_api(*request, _request_timeout=_request_timeout)


class IdleServer:
    """A loaded server, idle for half a minute, whose memory keeps changing slightly. worked: False: it never worked."""

    def __init__(self, harness: ReconcileHarness, *, worked: bool = True) -> None:
        self.harness, self.since, self.state, self.worked = harness, harness.now, "Loaded", worked
        self.wavering = itertools.cycle([-12, 0, 12])
        self.scrapes = 0

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        waver = next(self.wavering)
        if url.endswith("/metrics"):
            self.scrapes += 1
            held = 400 + waver if self.state == "Loaded" else 40
            return Reply(200, f'whisper_memory_bytes{{process="worker",kind="proportional"}} {held}000000\n'.encode())
        if url.endswith("/model/unload"):
            self.state = "Unloaded"
            return Reply(200, UNLOAD)
        # Responses take varying time.
        idle = (self.harness.now - self.since).total_seconds() + 30 + waver / 1000
        began = idle + 60 if self.worked else None
        report = pod_answers.status(self.state, device="cpu", idle_seconds=idle, work_began_seconds=began)
        return Reply(200, json.dumps(report).encode())


class Server:
    """An unloaded server that loads at once."""

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        if url.endswith("/model/status"):
            return Reply(200, UNLOADED)
        return Reply(200, LOADED if url.endswith("/model/load") else b"")


class SlowLoadServer:
    """An unloaded server whose load ends when the test allows it."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        if url.endswith("/model/load"):
            await self.may_end.wait()
            return Reply(200, LOADED)
        report = pod_answers.status("Loaded" if self.may_end.is_set() else "Unloaded")
        return Reply(200, json.dumps(report).encode())


class LoadedBeforeServer:
    """A server that a request loaded half a minute before it is first asked."""

    def __init__(self, harness: ReconcileHarness) -> None:
        self.harness, self.since = harness, harness.now - timedelta(seconds=30)

    async def fetch(self, method: str, url: str, **_: Any) -> Reply:
        ago = (self.harness.now - self.since).total_seconds()
        last_load = {"device": "cpu", "load_seconds": 2.5, "phases": {}, "trigger": "demand", "seconds_ago": ago}
        report = pod_answers.status(idle_seconds=ago, last_load=last_load)
        return Reply(200, json.dumps(report).encode() if url.endswith("/model/status") else b"")


class ReconcileHarness:
    """One model with everything that reconciling it needs."""

    def __init__(self, *, allow_from: Sequence[Any] | None = None, **spec: Any) -> None:
        self.now = NOON
        self.leads = True
        self.server: Http = Server()
        self.api = RecordingApi(lambda path, now, last: None)
        self.api.writes, self.api.reads = [], []
        self.store = Store.empty()
        self.seen: list[Key] = []
        self.restart(allow_from=allow_from)
        self.apply(**spec)

    def restart(self, *, allow_from: Sequence[Any] | None = None, defaults: Defaults | None = None) -> None:
        """Restart the operator: it knows what the watches have shown, and nothing else."""
        self.model_metrics = model_metrics = ModelMetrics()
        counter = Metrics(model_metrics=model_metrics, queue_depth=lambda: 0.0)
        pods = PodClient(self, may_act=lambda: self.leads)
        cluster = Cluster(cast("client.ApiClient", self.api), counter=counter, field_manager=OPERATOR).fenced(
            lambda: self.leads
        )
        self.pod_calls = PodCalls(pods, on_outcome=self.seen.append)
        self.reconciler = Reconciler(
            Dependencies(
                store=self.store,
                cluster=cluster,
                pods=pods,
                pod_calls=self.pod_calls,
                pod_keys=PodKeys(cluster),
                recorder=Recorder(cluster, instance="test"),
                model_metrics=model_metrics,
                defaults=defaults or Defaults("whisper-inference:0.1.0"),
                allow_from=allow_from,
                clock=lambda: self.now,
            )
        )

    async def fetch(self, method: str, url: str, **how: Any) -> Reply:
        """Send a request to the pod's server."""
        return await self.server.fetch(method, url, **how)

    def apply(self, **spec: Any) -> None:
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        body = {**self.api.objects.get(PATH, {}), "metadata": metadata, "spec": {"model": {"size": "base"}, **spec}}
        self.store.models.put(WhisperModelObject.model_validate(self.api.put(PATH, body)))

    def set_status(self, **status: Any) -> None:
        """Set the status that an earlier operator wrote."""
        body = {**self.api.objects[PATH], "status": status}
        self.store.models.put(WhisperModelObject.model_validate(self.api.put(PATH, body)))

    def scale(self, replicas: int, *, by: str) -> None:
        """Show in the watch that somebody else has set the Deployment's replicas."""
        path = DEPLOYMENTS.path(KEY.namespace, KEY.name)
        there = self.api.objects[path]
        claim = {"manager": by, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        metadata = {**there["metadata"], "managedFields": [claim]}
        changed = {**there, "metadata": metadata, "spec": {**there["spec"], "replicas": replicas}}
        self.store.deployments.put(Deployment.model_validate(self.api.put(path, changed)))

    def start_pod(self) -> None:
        ready = [{"type": "Ready", "status": "True"}]
        self.show_pod("base-1", phase="Running", podIP="10.0.0.7", conditions=ready)

    def show_pod(self, name: str, *, leaving: bool = False, **status: Any) -> None:
        """Show a new pod in the watch. leaving: it is terminating, with an hour of grace."""
        metadata = {"name": name, "namespace": KEY.namespace, "uid": f"uid-{name}", "labels": {LABEL: KEY.name}}
        made = {**metadata, "creationTimestamp": self.now.isoformat()}
        made |= {"deletionTimestamp": (self.now + timedelta(hours=1)).isoformat()} if leaving else {}
        self.store.pods.put(Pod.model_validate({"metadata": made, "status": status}))

    def renew(self, *, lasts: int = 15, is_shown: bool = True) -> None:
        """Create or renew the demand Lease, as from now. is_shown: whether the watch shows it."""
        path = LEASES.path(KEY.namespace, "demand")
        spec = {"renewTime": self.now.isoformat(), "leaseDurationSeconds": lasts}
        metadata = {"name": "demand", "namespace": KEY.namespace, "labels": {LABEL: KEY.name}}
        lease = Lease.model_validate(self.api.put(path, {"metadata": metadata, "spec": spec}))
        if is_shown:
            self.store.leases.put(lease)

    def delete_lease(self) -> None:
        """Show in the watch that the demand Lease was deleted."""
        path = LEASES.path(KEY.namespace, "demand")
        self.store.leases.remove(Lease.model_validate(self.api.objects[path]))
        self.api.delete(path)

    def condition(self, kind: str) -> Condition:
        return next(one for one in self.status.conditions if one.type == kind)

    async def reconcile(self) -> datetime | None:
        check_at = await self.reconciler.reconcile(KEY)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return check_at

    @property
    def status(self) -> Status:
        return Status.model_validate(self.api.objects[PATH]["status"])

    async def pass_time(self, length: timedelta) -> None:
        """Reconcile for so long, each time when it is due."""
        end = self.now + length
        while self.now < end:
            check_at = await self.reconcile()
            self.now = min(end, max(check_at or end, self.now + timedelta(milliseconds=50)))
