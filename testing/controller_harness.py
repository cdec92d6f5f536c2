"""A controller over an owner with stand-in processes, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from testing.owner_harness import OwnerHarness
from testing.processes_stand_in import LoadScript
from whisper_inference.engines.base import ModelSpec
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.settings import Settings
from whisper_inference.standalone.controller import Controller
from whisper_inference.standalone.record import Record
from whisper_inference.standalone.watch import FileWatch, ModelFile
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Depth, Mode, State
from whispermodel.status import Condition, Status

MONDAY = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
OFFICE_HOURS = {
    "entries": [
        {"name": "morning", "cron": "0 7 * * *", "state": "Loaded"},
        {"name": "evening", "cron": "0 20 * * *", "state": "Unloaded"},
    ]
}


def manifest(size: str = "tiny.en", **spec: Any) -> dict[str, Any]:
    """Return a WhisperModel as it is written to the file."""
    head = {"apiVersion": "audio-transcriber.io/v1alpha1", "kind": "WhisperModel", "metadata": {"name": "test"}}
    return {**head, "spec": {"model": {"size": size}, **spec}}


class MemoryRecords:
    """Keeps the record as the file would, in JSON."""

    def __init__(self) -> None:
        self.text = Record().model_dump_json()
        self.saves = 0

    def read(self) -> Record:
        return Record.model_validate_json(self.text)

    async def save(self, record: Record) -> None:
        self.text = record.model_dump_json(exclude_none=True)
        self.saves += 1


class ServerStandIn:
    """A queue of jobs, and the owner of the lifecycle. looks: how often the queue was counted."""

    def __init__(self, harness: OwnerHarness) -> None:
        self.harness = harness
        self.waiting = 0
        self.looks = 0
        self.configured: list[Settings] = []

    @property
    def owner(self) -> LifecycleOwner:
        return self.harness.owner

    async def queued(self) -> int:
        self.looks += 1
        return self.waiting

    async def measure(self) -> MemoryUsage:
        return await self.harness.processes.measure()

    def configure(self, settings: Settings) -> None:
        self.configured.append(settings)
        spec = ModelSpec(settings.model, engine=settings.engine, cache_dir="/nowhere")
        if spec != self.harness.processes.spec:
            self.owner.change_model(spec)

    async def job(self, seconds: float, *, upload_seconds: float = 0.0) -> None:
        """Receive a job, queue it, and run it when its turn comes."""
        async with self.owner.expected_work():
            await asyncio.sleep(upload_seconds)
            self.waiting += 1
        await self.serve(seconds)

    async def serve(self, seconds: float) -> None:
        """Run a job that is queued already."""
        async with self.owner.worker():
            self.waiting -= 1
            await asyncio.sleep(seconds)


class ControllerHarness:
    """A controller of one file. skipped: how far the calendar is ahead of the timers, as after a suspend."""

    def __init__(self, path: Path, *, records: MemoryRecords, start: datetime, loads: tuple[LoadScript, ...]) -> None:
        self.path = path
        self.records = records
        self.owner_harness = OwnerHarness(loads=loads)
        self.server = ServerStandIn(self.owner_harness)
        self.skipped = timedelta()
        self.shown: list[str] = []
        self._loop, self._start = asyncio.get_running_loop(), start
        watch = FileWatch(path, every_seconds=20)
        self.controller = Controller(
            ModelFile(watch, watch.read(), Settings()),
            server=self.server,
            records=records,
            clock=self.now,
            show=self.shown.append,
        )

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._loop.time()) + self.skipped

    @property
    def status(self) -> Status:
        return self.controller.status

    @property
    def state(self) -> State | None:
        return self.status.state

    @property
    def depth(self) -> Depth | None:
        """How deep an unloaded model is; None while it is not unloaded."""
        return None if self.owner_harness.processes.worker else self.owner_harness.processes.depth

    async def until(self, time: str, *, days: int = 0) -> None:
        """Let time pass up to a time of day, and one second more for what happens then."""
        hour, minute = map(int, time.split(":"))
        moment = self.now().replace(hour=hour, minute=minute, second=1, microsecond=0) + timedelta(days=days)
        assert moment > self.now()
        await asyncio.sleep((moment - self.now()).total_seconds())

    def write(self, *, size: str = "tiny.en", **spec: Any) -> None:
        write(self.path, size=size, **spec)

    def condition(self, kind: str) -> Condition:
        [found] = [condition for condition in self.status.conditions if condition.type == kind]
        return found

    async def command(self, state: str) -> None:
        """Load or unload as the server does for a person."""
        if state == "Loaded":
            await self.controller.keep_manual(ManualCommand(Mode.LOADED, self.now()))
            await self.owner_harness.owner.load("manual")
        else:
            await self.controller.keep_manual(ManualCommand(Mode.UNLOADED, self.now()))
            await self.owner_harness.owner.unload(Depth.COLD, reason="manual", force=False)


def write(path: Path, *, size: str = "tiny.en", **spec: Any) -> None:
    """Replace the file."""
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(manifest(size, **spec)))
    new.replace(path)


@asynccontextmanager
async def running_controller(
    folder: Path,
    *,
    records: MemoryRecords | None = None,
    start: datetime = MONDAY,
    loads: tuple[LoadScript, ...] = (),
    **spec: Any,
) -> AsyncGenerator[ControllerHarness]:
    """Run a controller for a block; start: the time when it begins."""
    path = folder / "model.yaml"
    write(path, **spec)
    loop = asyncio.get_running_loop()
    harness = ControllerHarness(
        path, records=records or MemoryRecords(), start=start - timedelta(seconds=loop.time()), loads=loads
    )
    await harness.controller.begin()
    running = asyncio.create_task(harness.controller.run())
    try:
        await asyncio.sleep(0.5)
        yield harness
        assert not running.done()
        assert harness.owner_harness.processes.violations == []
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await harness.owner_harness.owner.stop()
