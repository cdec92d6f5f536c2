"""A running server: what the API serves, what a scrape shows, and how it comes to its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from whisper_inference.jobs.model_queue import ModelQueue
from whisper_inference.service.executions import Executions
from whisper_inference.service.local_model import LocalModel
from whisper_inference.service.metrics import Gauges
from whisper_inference.service.shutdown import finish_work
from whisper_inference.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    settings: Settings
    """As at the start; what a model file changes later is in `queue.limits` and in the model."""
    model: LocalModel
    """The processes of the model."""
    queue: ModelQueue
    """The model's way in; the model and its jobs, as the API sees them."""
    executions: Executions
    """The jobs that are run for gateways."""

    @property
    def accepting(self) -> bool:
        """Whether new work is let in."""
        return self.queue.jobs.accepting

    @property
    def drains_for(self) -> timedelta:
        """How long its end may take."""
        return self.settings.drain

    def stop_accepting(self) -> None:
        """Refuse new work from now on: the server is stopping."""
        self.queue.jobs.stop_accepting()
        self.executions.stop_accepting()

    async def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self.model.metrics.exposition(await self._gauges())

    async def drain(self) -> None:
        """Wait until accepted work is done, at most for WHISPER_DRAIN."""
        await finish_work(self.settings.drain, queue=self.queue, executions=self.executions, owner=self.model.owner)

    async def _gauges(self) -> Gauges:
        usage = await self.model.measure()
        counts = await self.queue.counts()
        facts = self.queue.model.facts()
        return Gauges(
            state=facts.state,
            device=facts.device or "none",
            memory=usage,
            gpu_reserved_bytes=self.model.owner.gpu_bytes[1],
            last_activity=datetime.now(UTC).timestamp() - facts.idle_seconds,
            jobs={status.value: count for status, count in counts.items()},
            in_flight=self.queue.in_flight,
        )
