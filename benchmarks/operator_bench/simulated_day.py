"""Simulate 24 hours of many models in one process:

    python -m benchmarks.operator_bench.simulated_day MODELS HOURS

The operator's components are real, from the queue to the HTTP client; the API server and the pods are simulated. Prints
one JSON line per simulated hour, and a last one with what is left after all models are deleted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from kubernetes.aio import client
from prometheus_client import generate_latest

from benchmarks.operator_bench.simulated_pods import SimulatedNode
from testing.simulated_api import SimulatedApi
from testing.virtual_time import run
from whisper_cluster.api import DEPLOYMENTS, LEASES, PODS, SERVICES, WHISPER_MODELS, Cluster
from whisper_cluster.cache import Objects, Store, key_of, model_of
from whisper_cluster.leases import Lease
from whisper_cluster.names import OPERATOR
from whisper_cluster.objects import Deployment, Pod, Service, WhisperModelObject
from whisper_cluster.pods import PodClient
from whisper_cluster.resync import Resync
from whisper_inference.worker.resident import resident_of
from whisper_operator.logs import configure_logs
from whisper_operator.reconcile.calls_in_progress import PodCalls
from whisper_operator.reconcile.events import Recorder
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.reconcile.pod_keys import PodKeys
from whisper_operator.reconcile.reconciler import Dependencies, Reconciler
from whisper_operator.resources.deployment import Defaults
from whisper_operator.runtime.metrics import Metrics
from whisper_operator.runtime.work_queue import WorkQueue
from whisper_operator.runtime.workers import Workers
from whispermodel.key import Key

Json = dict[str, Any]
_MIDNIGHT = datetime(2026, 11, 2, tzinfo=UTC)
_WORKERS = 16
_SCRAPE_SECONDS = 300.0
"""Ten times the usual interval, because a scrape takes as long as dozens of reconciliations."""
_WAKES_A_DAY = 2
_RENEW_SECONDS, _RENEWALS, _LEASE_SECONDS = 5.0, 6, 15
_WORK_SECONDS = 60.0
_PERMANENT_TASKS = 3
"""Tasks of the operator that run all day: the workers, the resync and the scrape."""
_HOUR = 3600.0
_SCHEDULED_EVERY = 10
_SPEC: Json = {"model": {"size": "tiny.en"}, "idle": {"unloadAfter": "15m", "scaleToZeroAfter": "30m"}}
_SCHEDULED_SPEC: Json = {
    **_SPEC,
    "schedule": {
        "entries": [
            {"name": "morning", "cron": "0 7 * * *", "state": "Auto"},
            {"name": "evening", "cron": "0 22 * * *", "state": "Zero"},
        ]
    },
}


class Day:
    """The operator in its simulated environment."""

    def __init__(self, models: int) -> None:
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        self.keys = [Key(f"bench-{number % 10}", f"model-{number:04}") for number in range(models)]
        self.events: Counter[str] = Counter()
        self.node = SimulatedNode(self.clock)
        self.api = SimulatedApi(self._on_change)
        self.store = Store.empty()
        self.queue: WorkQueue[Key] = WorkQueue(clock=self.clock)
        self.model_metrics = ModelMetrics()
        self.metrics = Metrics(model_metrics=self.model_metrics, queue_depth=lambda: len(self.queue))
        self.pods = PodClient(self.node)
        self.pod_calls = PodCalls(self.pods, on_outcome=self.queue.add)
        self.cluster = Cluster(cast("client.ApiClient", self.api), counter=self.metrics, field_manager=OPERATOR)
        self.reconciler = Reconciler(self._dependencies())
        self.workers = Workers(self.queue, self.reconciler, self.metrics, self.now)
        self.resync = Resync(self.cluster, self.store, (), self.queue.add, every=300.0)
        self._seen = {
            kind.plural: partial(self._see, type_, objects)
            for kind, type_, objects in (
                (WHISPER_MODELS, WhisperModelObject, self.store.models),
                (DEPLOYMENTS, Deployment, self.store.deployments),
                (SERVICES, Service, self.store.services),
                (PODS, Pod, self.store.pods),
                (LEASES, Lease, self.store.leases),
            )
        }

    def now(self) -> datetime:
        """Return the simulated time."""
        return _MIDNIGHT + timedelta(seconds=self.clock())

    def _dependencies(self) -> Dependencies:
        return Dependencies(
            store=self.store,
            cluster=self.cluster,
            pods=self.pods,
            pod_calls=self.pod_calls,
            pod_keys=PodKeys(self.cluster),
            recorder=Recorder(self.cluster, instance="simulated"),
            model_metrics=self.model_metrics,
            defaults=Defaults("whisper-inference:0.1.0"),
            allow_from=None,
            clock=self.now,
        )

    def _on_change(self, path: str, now: Json | None, last: Json) -> None:
        """Deliver a change as a watch would, and let the node start or stop pods."""
        plural = path.split("/")[-2]
        if plural in self._seen:
            self.events[plural] += 1
            self._seen[plural](now, last)
        if plural == DEPLOYMENTS.plural:
            self.node.see(self.api, path, now)

    def _see(self, type_: Any, objects: Objects[Any], now: Json | None, last: Json) -> None:
        one = type_.model_validate(last)
        if now is None:
            objects.remove(one)
        key = key_of(one) if type_ is WhisperModelObject else model_of(one)
        if (now is None or objects.put(one)) and key is not None:
            self.queue.add(key)

    def begin(self) -> list[asyncio.Task[None]]:
        """Create all models, and start the background tasks."""
        for number, key in enumerate(self.keys):
            spec = _SPEC if number % _SCHEDULED_EVERY else _SCHEDULED_SPEC
            body = {"metadata": {"name": key.name, "namespace": key.namespace}, "spec": spec}
            self.api.put(WHISPER_MODELS.path(key.namespace, key.name), body)
        jobs: list[Callable[[], Awaitable[None]]] = [
            partial(self.workers.run, _WORKERS),
            self.resync.run,
            self._scrape,
            *(partial(self._use, key) for key in self.keys),
        ]
        return [asyncio.ensure_future(job()) for job in jobs]

    async def _scrape(self) -> None:
        while True:
            await asyncio.sleep(_SCRAPE_SECONDS)
            generate_latest(self.metrics.registry)

    async def _use(self, key: Key) -> None:
        """Wake a model at random times: renew its demand Lease until the pod has a job."""
        chance = random.Random(str(key))
        while True:
            await asyncio.sleep(chance.expovariate(_WAKES_A_DAY / (24 * _HOUR)))
            path = LEASES.path(key.namespace, f"demand-{key.name}")
            for _ in range(_RENEWALS):
                self.api.put(path, _lease(key, self.now()))
                await asyncio.sleep(_RENEW_SECONDS)
            pod = self.node.pod_of(DEPLOYMENTS.path(key.namespace, key.name))
            if pod is not None:
                await pod.work(_WORK_SECONDS)
            self.api.delete(path)

    def delete_all(self) -> None:
        """Delete all models and their dependents."""
        for key in self.keys:
            for kind, name in ((WHISPER_MODELS, ""), (DEPLOYMENTS, ""), (SERVICES, ""), (LEASES, "demand-")):
                self.api.delete(kind.path(key.namespace, name + key.name))

    def left(self) -> dict[str, int]:
        """Return the number of things that the operator still holds for models, by kind."""
        series = generate_latest(self.metrics.registry).decode()
        stored = (self.store.models, self.store.deployments, self.store.services, self.store.pods, self.store.leases)
        return {
            "objects in the store": sum(len(objects.keys()) for objects in stored),
            "memories": len(self.reconciler.memories),
            "series": sum('whispermodel="' in line for line in series.splitlines()),
            "queue keys": len(self.queue),
            "keys in work": len(self.workers.busy),
        }

    def reconciliations(self) -> int:
        """Return the number of reconciliations so far."""
        name, labels = "whisper_operator_reconcile_seconds_count", ("success", "error")
        values = [self.metrics.registry.get_sample_value(name, {"result": label}) for label in labels]
        return int(sum(value or 0 for value in values))


def _lease(key: Key, now: datetime) -> Json:
    labels = {"audio-transcriber.io/whispermodel": key.name}
    spec = {"leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    return {"metadata": {"name": f"demand-{key.name}", "namespace": key.namespace, "labels": labels}, "spec": spec}


async def simulate(models: int, hours: int) -> None:
    """Run the day, and print figures for each hour."""
    day = Day(models)
    tasks = day.begin()
    for hour in range(1, hours + 1):
        await asyncio.sleep(_HOUR)
        _print(hour=hour, **_figures(day))
    users = tasks[_PERMANENT_TASKS:]
    for task in users:
        task.cancel()
    await asyncio.gather(*users, return_exceptions=True)
    day.delete_all()
    await asyncio.sleep(_HOUR)
    ours = 1 + _PERMANENT_TASKS + _WORKERS
    _print(hour=0, **_figures(day), tasks=len(asyncio.all_tasks()) - ours, **day.left())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _figures(day: Day) -> dict[str, float]:
    gc.collect()
    return {
        "rss": resident_of(os.getpid()).resident,
        "events": day.events.total(),
        "requests": day.api.requests,
        "reconciliations": day.reconciliations(),
        "pods": day.node.started,
        "objects": len(gc.get_objects()),
    }


def _print(**figures: float) -> None:
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    configure_logs(json=True, level="error")
    run(partial(simulate, int(sys.argv[1]), int(sys.argv[2])))
