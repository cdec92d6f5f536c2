"""The events of jobs, for subscribers in this process: event streams and synchronous callers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from whisper_inference.jobs.job import Status
from whisper_inference.transcripts.transcript import Segment
from whispermodel.key import Key
from whispermodel.states import State

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
class SegmentAdded:
    """One more segment was transcribed; it is stored with its section.

    A repeated attempt yields the segments of an unfinished section again, and they are equal: sampling is seeded.
    """

    segment: Segment


@dataclass(frozen=True, slots=True)
class TextAdded:
    """One more section is stored; only its own text."""

    text: str


class Phase(StrEnum):
    """What a queued job waits for while its model is brought up."""

    WAKING = "waking"
    """The model was requested; no pod is there yet."""
    STARTING = "starting"
    """A pod is starting."""
    LOADING = "loading"
    """The model is being loaded."""
    LOADED = "loaded"
    """The model is loaded; the job only waits for its turn."""


def phase_of(state: State) -> Phase:
    """Return what a queued job waits for in a state of its model."""
    match state:
        case State.LOADED:
            return Phase.LOADED
        case State.LOADING | State.UNLOADED:
            return Phase.LOADING
        case State.STARTING:
            return Phase.STARTING
        case _:
            return Phase.WAKING


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The job's model has come closer to being loaded, or moved away from it."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Missed:
    """The subscriber was too slow, and segments or texts were dropped here: the store has them all."""


@dataclass(frozen=True, slots=True)
class Done:
    """The job is final: the last event."""

    status: Status


@dataclass(frozen=True, slots=True)
class ModelLoadFailed:
    """The model could not be loaded; a caller that waits for an answer checks whether its job is affected."""


JobEvent = StatusChanged | PhaseChanged | ProgressMade | SegmentAdded | TextAdded | Missed | Done
Event = JobEvent | ModelLoadFailed


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
        # Progress is dropped first, since later progress replaces it. Then the older half is dropped at once, so that
        # a subscriber that lags far behind gets one Missed, not one per event.
        kept = [event for event in self._pending if not isinstance(event, ProgressMade)]
        if len(kept) > self._limit:
            kept = [Missed(), *kept[-(self._limit // 2) :]]
        self._pending = deque(kept)


class EventHub:
    """Delivers the events of each job to its subscribers. Use it from the event loop's thread only."""

    def __init__(self, limit: int = MAX_PENDING) -> None:
        self._limit = limit
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._models: dict[str, Key] = {}

    def publish(self, job_id: str, event: Event) -> bool:
        """Send an event to a job's subscribers; return whether there are any. Costs nothing without subscribers."""
        subscriptions = self._subscriptions.get(job_id, ())
        for subscription in subscriptions:
            subscription.offer(event)
        return bool(subscriptions)

    def publish_to_all(self, model: Key, event: Event) -> None:
        """Send an event to the subscribers of all jobs of a model."""
        for job_id in [job_id for job_id, its_model in self._models.items() if its_model == model]:
            self.publish(job_id, event)

    @contextmanager
    def subscribe(self, job_id: str, model: Key) -> Generator[Subscription]:
        """Subscribe to a job. Subscribe first, then read the store, so that no event in between is missed."""
        subscription = Subscription(self._limit)
        self._models[job_id] = model
        self._subscriptions.setdefault(job_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._forget(job_id, subscription)

    def _forget(self, job_id: str, subscription: Subscription) -> None:
        listening = self._subscriptions[job_id]
        listening.discard(subscription)
        if not listening:
            del self._subscriptions[job_id], self._models[job_id]
