"""The operator's own metrics. Those that name a model are the model_metrics's."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.registry import Collector

from whisper_operator import __version__

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts what the operator does."""

    def __init__(self, *, model_metrics: Collector, queue_depth: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(model_metrics)
        build = Gauge("whisper_operator_build_info", "The running build.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)
        depth = Gauge("whisper_operator_queue_depth", "Models that are due and not in work.", registry=self.registry)
        depth.set_function(queue_depth)
        self._leader = Gauge("whisper_operator_leader", "1 in the replica that acts.", registry=self.registry)
        self._reconciles = Histogram(
            "whisper_operator_reconcile_seconds",
            "One reconciliation.",
            ["result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            "whisper_operator_api_requests",
            "Requests to the API server; code 0: no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )

    def counted(self, verb: str, resource: str, code: int) -> None:
        """Note one request to the API server."""
        self._requests.labels(verb, resource, str(code)).inc()

    def reconciled(self, result: str, seconds: float) -> None:
        """Note one reconciliation. result: success or error."""
        self._reconciles.labels(result).observe(seconds)

    def leads(self, leader: float) -> None:
        """Note whether this replica acts: 1 or 0."""
        self._leader.set(leader)
