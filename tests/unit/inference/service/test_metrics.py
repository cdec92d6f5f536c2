"""The server's metrics as Prometheus sees them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.service.metrics import Gauges, Metrics
from whisper_inference.worker.resident import NOTHING
from whispermodel.states import State


def test_freed_memory_counters_start_at_zero() -> None:
    gauges = Gauges(State.UNLOADED, "none", MemoryUsage(NOTHING), 0, 0.0, {}, 0)
    text = Metrics(version="0", model="base", engine="openai-whisper").exposition(gauges).decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    freed = {one.labels["kind"]: one.value for one in samples if one.name == "whisper_memory_freed_bytes_total"}
    assert freed == {"resident": 0.0, "gpu": 0.0}
