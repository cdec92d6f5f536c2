"""A dispatcher over a real store and spool, with an executor that follows its protocol and fails as scripted."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from whisper_inference import execution
from whisper_inference.errors import ServiceError, ShuttingDown
from whisper_inference.execution import ExecutorLost, Slot
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.dispatcher import Dispatcher
from whisper_inference.jobs.events import Event, EventHub
from whisper_inference.jobs.job import LOCAL, Job, Section, Status
from whisper_inference.jobs.quota import Quota
from whisper_inference.jobs.spool import Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.model_control import LoadOutcomes
from whisper_inference.transcripts.transcript import Options, Resume, Segment
from whispermodel.key import Key

SECTIONS = 3
SECTION_SAMPLES = 160_000
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LOST = ExecutorLost("crash", "killed by signal SIGKILL")
FORCED = ExecutorLost("forced", "ended by an unload")


@dataclass(frozen=True, slots=True)
class Attempt:
    """The script of one attempt."""

    sections: int = SECTIONS
    """After how many of its sections it ends."""
    end: Exception | None = None
    """What it ends with; None: it finishes."""
    ignores_cancel: bool = False
    """Whether it keeps running when it is cancelled."""


@dataclass
class CountingMetrics:
    started: int = 0
    succeeded: int = 0

    def job_started(self, waited_seconds: float) -> None:
        self.started += 1

    def job_succeeded(self, *, seconds: float, audio_seconds: float) -> None:
        self.succeeded += 1


class ScriptedExecutor:
    """One worker at a time. `open` lets loads through; `hold` names jobs that stop before their last section."""

    def __init__(self) -> None:
        self.scripts: dict[str, deque[Attempt]] = defaultdict(deque)
        self.orders: list[tuple[str, Resume | None]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.held: set[str] = set()
        self.shutting_down = False
        self.kills: list[str] = []
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def slot(self, model: Key) -> AsyncGenerator[Slot]:
        await self.open.wait()
        if self.shutting_down:
            raise ShuttingDown
        async with self._one:
            yield ScriptedSlot(self)


class ScriptedSlot:
    """The worker lent to one job: three sections of 10 s, one segment each, its text named after job and section."""

    def __init__(self, executor: ScriptedExecutor) -> None:
        self._executor = executor
        self._cancelled: set[str] = set()
        self._killed: ExecutorLost | None = None
        self._nudged = asyncio.Event()

    async def run(self, order: execution.Run) -> AsyncGenerator[execution.RunEvent]:
        executor = self._executor
        executor.orders.append((order.job, order.resume))
        script = executor.scripts[order.job].popleft() if executor.scripts[order.job] else Attempt()
        first = order.resume.next_segment_id if order.resume else 0
        for number in range(first, SECTIONS):
            if number - first == script.sections:
                break
            if number == SECTIONS - 1:
                await self._wait_while_held(order.job)
            await asyncio.sleep(0)
            if self._killed:
                raise self._killed
            if order.job in self._cancelled and not script.ignores_cancel:
                yield execution.Stopped(job=order.job)
                return
            for message in section_messages(order.job, number):
                yield message
        if script.end is not None:
            raise script.end
        yield execution.Finished(job=order.job, seconds=30.0)

    async def cancel(self, job: str) -> None:
        self._cancelled.add(job)
        self._nudged.set()

    def kill(self, cause: str, detail: str) -> None:
        self._killed = ExecutorLost(cause, detail)
        self._executor.kills.append(cause)
        self._executor.held.clear()
        self._nudged.set()

    async def _wait_while_held(self, job: str) -> None:
        while job in self._executor.held and not self._killed:
            await self._nudged.wait()
            self._nudged.clear()
            if job in self._cancelled and not self._executor.scripts["ignores_cancel"]:
                return


def section_messages(job: str, number: int) -> Iterator[execution.RunEvent]:
    segment = Segment(number, 0, number * 10.0, number * 10 + 9.0, f" {job}{number}", (1,), 0.0, -0.1, 1.0, 0.0)
    resume = Resume((number + 1) * SECTION_SAMPLES, "en", segment.text, number + 1)
    yield execution.Progress(job=job, seconds=number * 10.0 + 5)
    yield execution.SegmentDone(job=job, segment=segment)
    yield execution.SectionDone(job=job, segments=(segment,), resume=resume, seconds=number * 10.0 + 10)


class FaultyStore(JobStore):
    """The real store, with scripted failures: `faults` lists the errors of each method."""

    faults: dict[str, list[Exception]] = {}  # noqa: RUF012 (replaced by each harness)

    def _fault(self, name: str) -> None:
        if self.faults.get(name):
            raise self.faults[name].pop()

    async def append_section(self, token: str, section: Section) -> None:
        self._fault("append_section")
        await super().append_section(token, section)

    async def succeed(self, token: str, duration: float) -> None:
        self._fault("succeed")
        await super().succeed(token, duration)

    async def fail(self, token: str, error: ServiceError) -> None:
        self._fault("fail")
        await super().fail(token, error)

    async def has_queued(self, model: Key) -> bool:
        self._fault("has_queued")
        return await super().has_queued(model)


@dataclass
class DispatcherHarness:
    """A running dispatcher with its parts."""

    store: FaultyStore
    spool: Spool
    executor: ScriptedExecutor
    dispatcher: Dispatcher
    hub: EventHub
    loads: LoadOutcomes
    metrics: CountingMetrics
    unfetched: UnfetchedResults
    events: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    loop: asyncio.Task[None] | None = None
    listeners: list[asyncio.Task[None]] = field(default_factory=list)

    async def accept(
        self,
        name: str,
        *attempts: Attempt,
        synchronous: bool = False,
        listen: bool = True,
        start_by: datetime | None = None,
    ) -> str:
        async with self.spool.writer(1000) as writer:
            await writer.write(b"audio")
            audio = await writer.commit()
        self.executor.scripts[name].extend(attempts)
        job = Job(
            name, Options(), name, audio, "ana", NOW, synchronous=synchronous, audio_seconds=30.0, start_by=start_by
        )
        if listen:
            self.listeners.append(asyncio.create_task(self._listen(name)))
            await asyncio.sleep(0)
        await self.store.add(job)
        self.dispatcher.wake(LOCAL)
        return name

    async def _listen(self, name: str) -> None:
        with self.hub.subscribe(name, LOCAL) as subscription:
            async for event in subscription:
                self.events[name].append(event)
            # No event may follow Done.
            while True:
                subscription._ended = False
                self.events[name].append(await anext(subscription))

    def begin(self) -> None:
        self.loop = asyncio.create_task(self.dispatcher.run())

    async def until(self, fact: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(10):
                while not await fact():  # noqa: ASYNC110 (the facts are in a database)
                    await asyncio.sleep(0.002)
        except TimeoutError:
            jobs = (await self.store.page()).jobs
            raise AssertionError(f"never: {what}; {[(job.id, job.status, job.attempts) for job in jobs]}") from None

    async def until_status(self, name: str, *statuses: Status) -> Job:
        async def reached() -> bool:
            return (await self.store.get(name)).status in statuses and name not in self.dispatcher.running

        await self.until(reached, f"{name} {statuses}")
        return await self.store.get(name)

    async def until_held(self, name: str) -> None:
        async def two_sections() -> bool:
            return len(await self.store.segments(name)) == SECTIONS - 1

        await self.until(two_sections, f"{name} runs up to its last section")

    def received(self, name: str, kind: type[Event]) -> list[Event]:
        return [event for event in self.events[name] if isinstance(event, kind)]

    async def text(self, name: str) -> str:
        return (await self.store.transcript(name)).text

    async def until_audio_is_gone(self, name: str) -> None:
        path = self.spool.local_path((await self.store.get(name)).audio.key)
        assert path is not None

        async def gone() -> bool:
            return not path.exists()

        await self.until(gone, f"the audio of {name} is deleted")


@asynccontextmanager
async def running_dispatcher(folder: Path) -> AsyncGenerator[DispatcherHarness]:
    numbers = itertools.count(1)
    token = lambda: f"t{next(numbers)}"  # noqa: E731
    store = FaultyStore(open_database(sqlite_url(folder)), clock=lambda: NOW, new_token=token)
    FaultyStore.faults = {}
    await store.prepare()
    spool = Spool(
        open_store(folder / "audio"),
        quota=Quota(database=store.database, clock=store.clock, limit_bytes=1 << 20),
        new_key=token,
    )
    hub, unfetched, loads = EventHub(), UnfetchedResults(fetch_seconds=0), LoadOutcomes()
    metrics, executor = CountingMetrics(), ScriptedExecutor()
    dispatcher = Dispatcher(
        store=store,
        spool=spool,
        hub=hub,
        unfetched=unfetched,
        executor=executor,
        loads=loads,
        metrics=metrics,
        max_audio_seconds=3600,
        clock=lambda: NOW + timedelta(seconds=1),
        cancel_seconds=0.05,
        retry_seconds=0.01,
    )
    harness = DispatcherHarness(store, spool, executor, dispatcher, hub, loads, metrics, unfetched)
    try:
        yield harness
    finally:
        tasks = [*harness.listeners, *([harness.loop] if harness.loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await dispatcher._background.cancel()
        await store.database.close()
