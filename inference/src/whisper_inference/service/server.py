"""A running server: what the API serves, what a scrape shows, and how it comes to its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from whisper_inference.jobs.service import JobService
from whisper_inference.model_control import ModelControl
from whisper_inference.service.local_model import LocalModel
from whisper_inference.service.metrics import Gauges
from whisper_inference.service.shutdown import finish_work
from whisper_inference.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    settings: Settings
    """As at the start; what a model file changes later is in `jobs.limits` and in the model."""
    model: LocalModel
    """The processes of the model."""
    control: ModelControl
    """The model, as the API sees it."""
    jobs: JobService
    """The jobs, as the API sees them."""

    async def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self.model.metrics.exposition(await self._gauges())

    async def drain(self) -> None:
        """Wait until accepted work is done, at most for WHISPER_DRAIN."""
        await finish_work(self.settings.drain, jobs=self.jobs, owner=self.model.owner)

    async def _gauges(self) -> Gauges:
        usage = await self.model.measure()
        counts = await self.jobs.counts()
        facts = self.control.facts()
        return Gauges(
            state=facts.state,
            device=facts.device or "none",
            memory=usage,
            gpu_reserved_bytes=self.model.owner.gpu_bytes[1],
            last_activity=datetime.now(UTC).timestamp() - facts.idle_seconds,
            jobs={status.value: count for status, count in counts.items()},
            in_flight=self.jobs.in_flight,
        )
