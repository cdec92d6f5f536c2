"""The metrics that only a gateway has, each by its one name; documented in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from whispermodel.key import Key

_MODEL = ("namespace", "whispermodel")
# At most 1.67 apart, so that a percentile that doubled is not an effect of the buckets.
_WAKE = (0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 500, 800, 1200, 1800)
_FORWARD = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class WakeResult(StrEnum):
    """How a wake ended."""

    SERVED = "served"
    """A pod took the first job."""
    ABANDONED = "abandoned"
    """The last job that waited for the model was cancelled before a pod took it."""
    FAILED = "failed"
    """The model could not be woken, and the jobs were told why."""


class RetryCause(StrEnum):
    """Why a job was sent again."""

    UNREACHABLE = "unreachable"
    """No connection to the pod."""
    REFUSED = "refused"
    """The pod was ready but did not take the job, for example because it was leaving."""
    LOST = "lost"
    """The pod ended its response before the result."""
    SILENT = "silent"
    """The pod missed its heartbeats."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The jobs of one model that wait for a pod."""

    jobs: int
    """Their number."""
    stored_bytes: int
    """Their audio."""
    oldest_seconds: float
    """How long the oldest has waited; 0 without jobs."""


NOTHING_PENDING = Pending(0, 0, 0.0)


class GatewayMetrics:
    """The gateway's series, in a registry that it shares with those of HTTP and jobs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()
        self._pending_families(registry)
        self._wake_families(registry)
        self._forward = Histogram(
            "whisper_gateway_forward_seconds",
            "From a place in a pod to the pod's first event.",
            buckets=_FORWARD,
            registry=registry,
        )
        self._retries = Counter("whisper_gateway_retries", "Jobs sent again.", ["cause"], registry=registry)
        self._stored = Gauge("whisper_gateway_stored_bytes", "Stored audio.", registry=registry)
        self._limit = Gauge("whisper_gateway_stored_limit_bytes", "Limit of the stored audio.", registry=registry)
        for cause in RetryCause:
            # From the start on: an increase from nothing is no increase to Prometheus.
            self._retries.labels(cause)

    def _pending_families(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge("whisper_gateway_pending", "Jobs that wait for a pod.", _MODEL, registry=registry)
        self._bytes = Gauge("whisper_gateway_pending_bytes", "Audio of these jobs.", _MODEL, registry=registry)
        self._oldest = Gauge(
            "whisper_gateway_oldest_pending_seconds", "How long the oldest has waited.", _MODEL, registry=registry
        )

    def _wake_families(self, registry: CollectorRegistry) -> None:
        self._wake = Histogram(
            "whisper_gateway_wake_seconds",
            "From the first request at zero to a place in a pod.",
            _MODEL,
            buckets=_WAKE,
            registry=registry,
        )
        self._wakes = Counter("whisper_gateway_wakes", "Wakes from zero.", [*_MODEL, "result"], registry=registry)

    def model_added(self, key: Key) -> None:
        """Start a model's series at zero, so that Prometheus sees its first wake as an increase."""
        labels = (key.namespace, key.name)
        self._show_pending(key, NOTHING_PENDING)
        self._wake.labels(*labels)
        for result in WakeResult:
            self._wakes.labels(*labels, result)

    def model_deleted(self, key: Key) -> None:
        """Remove a model's series."""
        labels = (key.namespace, key.name)
        for family in (self._jobs, self._bytes, self._oldest, self._wake):
            family.remove(*labels)
        for result in WakeResult:
            self._wakes.remove(*labels, result)

    def woken(self, key: Key, seconds: float) -> None:
        """Observe a wake that was served; seconds: from the demand accepted at zero to the first place in a pod."""
        self._wake.labels(key.namespace, key.name).observe(seconds)
        self._wakes.labels(key.namespace, key.name, WakeResult.SERVED).inc()

    def wake_abandoned(self, key: Key) -> None:
        """Count a wake that nobody waits for any more."""
        self._wakes.labels(key.namespace, key.name, WakeResult.ABANDONED).inc()

    def wake_failed(self, key: Key) -> None:
        """Count a wake that ended with the cause that keeps the model away."""
        self._wakes.labels(key.namespace, key.name, WakeResult.FAILED).inc()

    def forwarded(self, seconds: float) -> None:
        """Observe a pod's first event; seconds: since the job got its place."""
        self._forward.observe(seconds)

    def retried(self, cause: RetryCause) -> None:
        """Count a job that is sent again."""
        self._retries.labels(cause).inc()

    def show(self, pending: Mapping[Key, Pending], *, stored_bytes: int, limit_bytes: int) -> None:
        """Set the gauges for a scrape; pending: every model that was added, and any other with stored jobs."""
        for family in (self._jobs, self._bytes, self._oldest):
            family.clear()
        for key, waiting in pending.items():
            self._show_pending(key, waiting)
        self._stored.set(stored_bytes)
        self._limit.set(limit_bytes)

    def _show_pending(self, key: Key, pending: Pending) -> None:
        labels = (key.namespace, key.name)
        self._jobs.labels(*labels).set(pending.jobs)
        self._bytes.labels(*labels).set(pending.stored_bytes)
        self._oldest.labels(*labels).set(pending.oldest_seconds)
