"""What happens to jobs, told to whoever listens in this process: event streams and synchronous callers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from whisper_inference.jobs.job import Status
from whisper_inference.transcripts.transcript import Segment

MAX_PENDING = 256
"""Events kept for a subscriber that is slower than its job."""


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The job was queued again or started; a final status comes as Done."""

    status: Status


@dataclass(frozen=True, slots=True)
class ProgressMade:
    """The running attempt's progress, 0 to 1."""

    progress: float


@dataclass(frozen=True, slots=True)
class SegmentHeard:
    """One more segment was heard; it is stored with its section.

    A repeated attempt hears the segments of an unfinished section again, and they are the same: sampling is seeded.
    """

    segment: Segment


@dataclass(frozen=True, slots=True)
class TextHeard:
    """One more section is stored; only its own text."""

    text: str


@dataclass(frozen=True, slots=True)
class Missed:
    """Segments or texts were dropped here, because the subscriber was too slow: the store has them all."""


@dataclass(frozen=True, slots=True)
class Done:
    """The job is final: the last event."""

    status: Status


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded for what waits: whoever wants an answer at once looks whether its job does."""


JobEvent = StatusChanged | ProgressMade | SegmentHeard | TextHeard | Missed | Done
Event = JobEvent | LoadFailed


class Subscription:
    """The events of one job from the subscription on; iterate until it ends after Done.

    A wait for the next event may be cancelled (a heartbeat's timeout) without losing one; it has no deadline of its
    own, since only the caller knows its client's patience.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    def offer(self, event: Event) -> None:
        """Queue an event; never waits, never drops Done."""
        if self._pending and isinstance(event, ProgressMade) and isinstance(self._pending[-1], ProgressMade):
            self._pending.pop()
        self._pending.append(event)
        if len(self._pending) > self._limit:
            self._drop()
        self._arrived.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        """Return the next event."""
        if self._ended:
            raise StopAsyncIteration
        while not self._pending:
            self._arrived.clear()
            await self._arrived.wait()
        event = self._pending.popleft()
        self._ended = isinstance(event, Done)
        return event

    def _drop(self) -> None:
        # Progress goes first, it repeats itself. Without any, the older half goes at once and leaves one mark, so that
        # a subscriber that lags far behind is told once, not at every event.
        kept = [event for event in self._pending if not isinstance(event, ProgressMade)]
        if len(kept) > self._limit:
            kept = [Missed(), *kept[-(self._limit // 2) :]]
        self._pending = deque(kept)


class EventHub:
    """Brings the events of each job to its subscribers. Use it from the event loop's thread only."""

    def __init__(self, limit: int = MAX_PENDING) -> None:
        self._limit = limit
        self._subscriptions: dict[str, set[Subscription]] = {}

    def publish(self, job_id: str, event: Event) -> bool:
        """Tell a job's subscribers, and return whether there are any; costs nothing when there are none."""
        subscriptions = self._subscriptions.get(job_id, ())
        for subscription in subscriptions:
            subscription.offer(event)
        return bool(subscriptions)

    def publish_load_failed(self) -> None:
        """Tell the subscribers of all jobs that the model could not be loaded."""
        for job_id in self._subscriptions:
            self.publish(job_id, LoadFailed())

    @contextmanager
    def subscribe(self, job_id: str) -> Generator[Subscription]:
        """Listen to a job. Subscribe first and read the store then: what ends in between is seen in one of the two."""
        subscription = Subscription(self._limit)
        self._subscriptions.setdefault(job_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._forget(job_id, subscription)

    def _forget(self, job_id: str, subscription: Subscription) -> None:
        listening = self._subscriptions[job_id]
        listening.discard(subscription)
        if not listening:
            del self._subscriptions[job_id]
