"""The operator's own metrics. ModelMetrics has those that name a model."""

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
        depth = Gauge(
            "whisper_operator_queue_depth", "Models that are due and not being reconciled.", registry=self.registry
        )
        depth.set_function(queue_depth)
        self._leader = Gauge("whisper_operator_leader", "1 in the leading replica.", registry=self.registry)
        self._reconciles = Histogram(
            "whisper_operator_reconcile_seconds",
            "Duration of a reconciliation.",
            ["result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            "whisper_operator_api_requests",
            "Requests to the API server; code 0: no response.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )

    def counted(self, verb: str, resource: str, code: int) -> None:
        """Count one request to the API server."""
        self._requests.labels(verb, resource, str(code)).inc()

    def reconciled(self, result: str, seconds: float) -> None:
        """Count one reconciliation. result: success or error."""
        self._reconciles.labels(result).observe(seconds)

    def leads(self, leader: float) -> None:
        """Set whether this replica leads: 1 or 0."""
        self._leader.set(leader)
