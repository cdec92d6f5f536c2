"""The metrics of a gateway as Prometheus scrapes them: the product's families, filled by the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server

from whisper_inference.fleet.metrics import GatewayMetrics, Pending, RetryCause
from whisper_inference.service.request_metrics import RequestMetrics
from whispermodel.key import Key


@dataclass(frozen=True)
class GatewayPage:
    """A served page with metrics. The gateway's share a registry with those of HTTP."""

    port: int
    http: RequestMetrics
    metrics: GatewayMetrics

    def show_work(self, key: Key) -> None:
        """Show a gateway that woke a model for one of two jobs, and whose first pod did not take it."""
        self.metrics.woken(key, 2.5)
        self.metrics.retried(RetryCause.REFUSED)
        self.metrics.forwarded(0.004)
        self.metrics.show({key: Pending(1, 1000, 3.0)}, stored_bytes=2000, limit_bytes=10_000)

    def show_requests(self) -> None:
        """Show accepted requests, one that is refused for lack of room, and one that a demandPolicy refuses."""
        for code in (*[202] * 50, 429, 503):
            self.http.request(route="/jobs", method="POST", code=code, seconds=0.01)
        for reason in ("too-many-stored-bytes", "refused-until"):
            self.http.rejected(reason)


@contextmanager
def running_gateway_page(key: Key) -> Iterator[GatewayPage]:
    """Serve the metrics of a gateway that has just started and has seen one model, until the block ends."""
    registry = CollectorRegistry()
    http, metrics = RequestMetrics(registry), GatewayMetrics(registry)
    metrics.model_added(key)
    metrics.show({key: Pending(0, 0, 0.0)}, stored_bytes=0, limit_bytes=10_000)
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    try:
        yield GatewayPage(server.server_port, http, metrics)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
