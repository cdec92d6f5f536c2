"""The gateway's metrics as Prometheus sees them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from whisper_inference.fleet.metrics import GatewayMetrics, Pending, RetryCause
from whispermodel.key import Key

BASE, LARGE = Key("speech", "base"), Key("research", "large")


class Scraped:
    """The metrics in a registry of their own, and what a scrape of it returns."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = GatewayMetrics(self.registry)

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric by the values of its labels, which Prometheus sorts."""
        families = text_string_to_metric_families(generate_latest(self.registry).decode())
        samples = [one for family in families for one in family.samples if one.name == name]
        return {tuple(one.labels.values()): one.value for one in samples}

    def show(self, pending: Mapping[Key, Pending]) -> None:
        self.metrics.show(pending, stored_bytes=1000, limit_bytes=2000)


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_the_series_of_a_model_start_at_zero(scraped: Scraped) -> None:
    scraped.metrics.model_added(BASE)
    assert scraped.series("whisper_gateway_wakes_total") == {
        ("speech", "served", "base"): 0,
        ("speech", "abandoned", "base"): 0,
        ("speech", "failed", "base"): 0,
    }
    assert scraped.series("whisper_gateway_wake_seconds_count") == {("speech", "base"): 0}
    assert scraped.series("whisper_gateway_pending") == {("speech", "base"): 0}


def test_retries_start_at_zero(scraped: Scraped) -> None:
    assert scraped.series("whisper_gateway_retries_total") == dict.fromkeys(((cause,) for cause in RetryCause), 0)


def test_a_served_wake_is_timed_and_counted(scraped: Scraped) -> None:
    scraped.metrics.woken(BASE, 2.5)
    assert scraped.series("whisper_gateway_wake_seconds_sum") == {("speech", "base"): 2.5}
    assert scraped.series("whisper_gateway_wakes_total") == {("speech", "served", "base"): 1}


def test_wakes_without_a_pod_are_counted_but_not_timed(scraped: Scraped) -> None:
    scraped.metrics.wake_abandoned(BASE)
    scraped.metrics.wake_failed(BASE)
    assert scraped.series("whisper_gateway_wakes_total") == {
        ("speech", "abandoned", "base"): 1,
        ("speech", "failed", "base"): 1,
    }
    assert scraped.series("whisper_gateway_wake_seconds_count") == {}


def test_forwards_and_retries_count(scraped: Scraped) -> None:
    scraped.metrics.forwarded(0.004)
    scraped.metrics.retried(RetryCause.SILENT)
    assert scraped.series("whisper_gateway_forward_seconds_sum") == {(): 0.004}
    assert scraped.series("whisper_gateway_retries_total")["silent",] == 1


def test_the_gauges_show_what_waits_and_what_is_stored(scraped: Scraped) -> None:
    scraped.show({BASE: Pending(3, 500, 12.5)})
    assert scraped.series("whisper_gateway_pending") == {("speech", "base"): 3}
    assert scraped.series("whisper_gateway_pending_bytes") == {("speech", "base"): 500}
    assert scraped.series("whisper_gateway_oldest_pending_seconds") == {("speech", "base"): 12.5}
    assert scraped.series("whisper_gateway_stored_bytes") == {(): 1000}
    assert scraped.series("whisper_gateway_stored_limit_bytes") == {(): 2000}


def test_only_the_given_models_are_shown(scraped: Scraped) -> None:
    scraped.show({BASE: Pending(3, 500, 12.5), LARGE: Pending(1, 1, 1)})
    scraped.show({LARGE: Pending(0, 0, 0)})
    assert scraped.series("whisper_gateway_pending") == {("research", "large"): 0}


def test_a_deleted_model_has_no_series(scraped: Scraped) -> None:
    for key in (BASE, LARGE):
        scraped.metrics.model_added(key)
    scraped.metrics.woken(BASE, 1)
    scraped.metrics.model_deleted(BASE)
    text = generate_latest(scraped.registry).decode()
    assert 'whispermodel="base"' not in text
    assert 'whispermodel="large"' in text


def test_deleting_an_unknown_model_is_harmless(scraped: Scraped) -> None:
    scraped.metrics.model_deleted(BASE)
