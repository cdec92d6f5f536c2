"""The metrics of requests and jobs, which every process with the HTTP API has; documented in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram

_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_FACTORS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)


class RequestMetrics:
    """Answered requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Histogram(
            "whisper_http_request_duration_seconds",
            "From the request's headers to the end of its response.",
            ["route", "method", "code"],
            buckets=_LONG,
            registry=registry,
        )
        self._rejected = Counter(
            "whisper_rejected", "Requests answered with an error, by its code.", ["reason"], registry=registry
        )
        self._cold_start = Histogram(
            "whisper_cold_start_seconds",
            "Duration of loads that a request had to wait for.",
            ["path", "phase"],
            buckets=_SHORT,
            registry=registry,
        )

    def request(self, *, route: str, method: str, code: int, seconds: float) -> None:
        """Observe an answered request; route: the template, never the path."""
        self._requests.labels(route, method, code).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count an error answer."""
        self._rejected.labels(reason).inc()

    def cold_start(self, path: str, phases: Mapping[str, float]) -> None:
        """Observe the load that a request waited for; path: warm or cold."""
        for phase, seconds in phases.items():
            self._cold_start.labels(path, phase).observe(seconds)


class JobMetrics:
    """Jobs that started and ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue_seconds = Histogram(
            "whisper_job_queue_seconds", "From accepted to started.", buckets=_LONG, registry=registry
        )
        self._job_seconds = Histogram(
            "whisper_job_duration_seconds", "From started to succeeded.", buckets=_LONG, registry=registry
        )
        self._audio_seconds = Counter("whisper_audio_seconds", "Seconds of audio transcribed.", registry=registry)
        self._realtime = Histogram(
            "whisper_realtime_factor", "Seconds of audio per second of work.", buckets=_FACTORS, registry=registry
        )

    def job_started(self, waited_seconds: float) -> None:
        """Observe how long a job has waited."""
        self._queue_seconds.observe(waited_seconds)

    def job_succeeded(self, *, seconds: float, audio_seconds: float) -> None:
        """Observe a job's duration."""
        self._job_seconds.observe(seconds)
        self._audio_seconds.inc(audio_seconds)
        if seconds > 0:
            self._realtime.observe(audio_seconds / seconds)
