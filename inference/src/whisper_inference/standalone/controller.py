"""The control loop of a model file: observe, plan, act through the lifecycle's owner, record; wait for a change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from pydantic import JsonValue

from whisper_inference.errors import ServiceError
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.model_control import LoadReceipt, UnloadReceipt, refusal_of
from whisper_inference.settings import Settings
from whisper_inference.standalone.manifest import Manifest, ManifestError, settings_of, without_effect
from whisper_inference.standalone.observe import ServerObserver
from whisper_inference.standalone.record import RecordStore, digest_of
from whisper_inference.standalone.status import RecentEvents, StatusInputs, document_of, memory_of, next_status, table
from whisper_inference.standalone.watch import ModelFile
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand, Reason
from whispermodel.planning.planner import Plan, Step, manual_left, plan
from whispermodel.states import Depth, State
from whispermodel.status import Memory, Status
from whispermodel.status_writes import is_write_due, whole

_PAUSE_SECONDS = 0.1
"""Minimum time between two reconciliations: a burst of requests is one change, not a hundred."""
_LONGEST_SLEEP_SECONDS = 30.0
"""A suspended machine's timers stand still; the calendar is checked at least this often."""
_FIGURES_EVERY = timedelta(seconds=10)
"""How often figures are saved at most."""

log = structlog.stdlib.get_logger(__name__)


class ControlledServer(Protocol):
    """The server, as far as the controller needs it."""

    @property
    def owner(self) -> LifecycleOwner: ...
    async def queued(self) -> int: ...
    async def measure(self) -> MemoryUsage: ...
    def configure(self, settings: Settings) -> None: ...


def _now() -> datetime:
    return datetime.now(UTC)


class Controller:
    """Applies a model file to one server from `begin` on; `run` is its loop."""

    def __init__(
        self,
        file: ModelFile,
        *,
        server: ControlledServer,
        records: RecordStore,
        clock: Callable[[], datetime] = _now,
        show: Callable[[str], None] | None = None,
    ) -> None:
        """Read the record of an earlier server; the data folder must be ours already."""
        self._file = file
        self._server = server
        self._records = records
        self._clock = clock
        self._show = show
        self._manifest = file.manifest
        self._record = records.read()
        self._observer = ServerObserver(server.owner, idle_since=self.status.idle_since)
        self._problem: ManifestError | None = None
        self._plan: Plan | None = None
        self._changed = asyncio.Event()
        # The owner logs what failed; what was superseded is planned again.
        self._background = BackgroundTasks("model.background_task_failed", expected=ServiceError)
        self._reported: tuple[LoadReceipt | None, UnloadReceipt | None, int] = (None, None, 0)
        self._shown: tuple[State, State, Reason] | None = None
        self._saved_at: datetime | None = None
        self._saved = Status()
        self._one_at_a_time = asyncio.Lock()

    @property
    def status(self) -> Status:
        """The status after the last reconciliation."""
        return self._record.status

    @property
    def manual(self) -> ManualCommand | None:
        """The last manual load or unload, also one from before a restart."""
        return self._record.manual

    async def begin(self) -> None:
        """Apply the file and decide for the first time."""
        self._apply(self._manifest)
        if ignored := without_effect(self._manifest.spec):
            log.warning("model.without_effect", fields=ignored, reason="these fields have an effect only in a cluster")
        await self._reconcile_alone()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        watching = asyncio.create_task(self._follow_file())
        try:
            with self._server.owner.changes() as self._changed:
                while True:
                    await self._reconcile_or_log()
                    await self._wait_for_change()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._records.save(self._record)

    async def keep_manual(self, command: ManualCommand) -> None:
        """Record a manual load or unload: it counts as a schedule fire at that instant, also after a restart.

        The caller carries it out before anything else is decided, so that it gets the receipt.
        """
        async with self._one_at_a_time:
            self._record = self._record.model_copy(update={"manual": command})
            await self._records.save(self._record)
            self._changed.set()

    def refusal(self) -> ServiceError | None:
        """Return why new work is refused now; None: it is let in."""
        return refusal_of(self._plan, self._clock()) if self._plan else None

    def overruling(self) -> str | None:
        """Return the sentence of the order that keeps the model from being loaded; None: only a manual one, or none."""
        planned = self._plan
        if planned is None or planned.target is State.LOADED or not _is_ordered(planned):
            return None
        return None if planned.reason is Reason.MANUAL else planned.message

    async def document(self) -> dict[str, JsonValue]:
        """Return the resource as kubectl would show it, with memory measured now."""
        memory = await self._memory(self._clock())
        return document_of(self._manifest, self.status.model_copy(update={"memory": memory}))

    async def _follow_file(self) -> None:
        while True:
            try:
                async for found in self._file.watch.changes():
                    self._handle_change(found)
            except Exception:
                # The boundary of this loop: the file's next version is another chance.
                log.exception("model.file_not_followed")
                await asyncio.sleep(1)

    def _handle_change(self, found: Manifest | ManifestError) -> None:
        if isinstance(found, ManifestError):
            self._problem = found
            log.warning("model.file_unusable", reason=str(found), in_effect="the last valid version")
        else:
            self._problem = None
            self._apply(found)
        self._changed.set()

    def _apply(self, manifest: Manifest) -> None:
        """Put a version of the spec into effect; one that was in effect before keeps its number and its time."""
        self._manifest, digest = manifest, digest_of(manifest.spec)
        if digest != self._record.digest:
            generation = self._record.generation + 1
            status = self.status.model_copy(update={"spec_since": whole(self._clock())})
            self._record = self._record.model_copy(
                update={"generation": generation, "digest": digest, "status": status}
            )
            log.info("model.file_adopted", name=manifest.name, generation=generation)
        self._server.configure(settings_of(manifest.spec, self._file.base))

    async def _reconcile_or_log(self) -> None:
        try:
            await self._reconcile_alone()
        except Exception:
            # The boundary of the loop: the server carries on, and the next change is another chance.
            log.exception("model.round_failed")
            await asyncio.sleep(1)

    async def _reconcile_alone(self) -> None:
        async with self._one_at_a_time:
            await self._reconcile()

    async def _reconcile(self) -> None:
        queued = await self._queued()
        seen, planned, now = self._observe_and_plan(queued)
        if self._is_done_already(planned, seen):
            self._observer.at_zero = Step.SCALE_DOWN in planned.steps
            seen, planned, now = self._observe_and_plan(queued)
        self._plan = planned
        self._act(planned, seen)
        await self._update_status(planned, seen, now=now)

    def _observe_and_plan(self, queued: int) -> tuple[Observed, Plan, datetime]:
        now = self._clock()
        seen = self._observer.observe(self._record, queued=queued, now=now)
        return seen, plan(self._manifest.spec, seen, now), now

    def _is_done_already(self, planned: Plan, seen: Observed) -> bool:
        """Return whether the step would start or end a pod: the only one here is the server, which is running."""
        at_rest = seen.state in (State.UNLOADED, State.FAILED) and not seen.warm
        return Step.SCALE_UP in planned.steps or (Step.SCALE_DOWN in planned.steps and at_rest)

    async def _queued(self) -> int:
        """Return how many jobs wait, together with a lifecycle that has not changed since they were counted.

        A job is stored before its upload leaves the lifecycle: read the other way round, it would be in neither.
        """
        queued = 0
        for _ in range(5):
            self._changed.clear()
            queued = await self._server.queued()
            if not self._changed.is_set():
                break
        return queued

    def _act(self, planned: Plan, seen: Observed) -> None:
        owner, reason = self._server.owner, planned.reason.value.lower()
        if owner.lifecycle.unload is not None:
            return
        if owner.holds_former_model:
            self._background.start(owner.unload(Depth.COLD, reason="changed", force=False))
            return
        # A failed load leaves its imports behind, and nobody needs them any more.
        left_behind = seen.state is State.FAILED and seen.warm and planned.target is State.UNLOADED
        if owner.lifecycle.revert_to is not None and planned.target is State.LOADED and _is_ordered(planned):
            # Loaded for an upload so far; from now on it stays, whatever becomes of the upload.
            self._background.start(owner.load(reason))
            return
        for step in planned.steps or ((Step.UNLOAD_COLD,) if left_behind else ()):
            match step:
                case Step.LOAD:
                    self._background.start(owner.load(reason))
                case Step.UNLOAD_WARM:
                    self._background.start(owner.unload(Depth.WARM, reason=reason, force=False))
                case _:
                    self._observer.at_zero = step is Step.SCALE_DOWN
                    self._background.start(owner.unload(Depth.COLD, reason=reason, force=False))

    async def _update_status(self, planned: Plan, seen: Observed, *, now: datetime) -> None:
        """Bring the status up to date; log a transition, and save what changed."""
        shows = (seen.state, planned.target, planned.reason)
        moved, self._shown = shows != self._shown, shows
        current = self._status_input(planned, seen, now=now)
        if moved:
            current = replace(current, memory=await self._memory(now))
        status = next_status(self.status, current)
        self._record = self._record.model_copy(update={"status": status})
        if moved:
            self._log_transition(status)
        if is_write_due(self._saved, status, written_at=self._saved_at, now=now, figures_every=_FIGURES_EVERY):
            self._saved, self._saved_at = status, now
            await self._records.save(self._record)

    def _status_input(self, planned: Plan, seen: Observed, *, now: datetime) -> StatusInputs:
        owner = self._server.owner
        loaded = seen.state is State.LOADED and owner.load_receipt is not None
        return StatusInputs(
            now=now,
            generation=self._record.generation,
            state=seen.state,
            plan=planned,
            device=owner.load_receipt.device if loaded and owner.load_receipt else None,
            memory=self.status.memory,
            idle_since=seen.idle_since,
            manual=self._record.manual if manual_left(self._manifest.spec, seen, now) else None,
            recent=self._recent_events(),
            failure=str(owner.failure) if owner.failure else None,
            failures=owner.lifecycle.failures,
            changing=owner.holds_former_model,
            problem=self._problem,
        )

    def _recent_events(self) -> RecentEvents:
        owner, (load, unload, failures) = self._server.owner, self._reported
        self._reported = (owner.load_receipt, owner.unload_receipt, owner.lifecycle.failures)
        return RecentEvents(
            load=owner.load_receipt if owner.load_receipt is not load else None,
            unload=owner.unload_receipt if owner.unload_receipt is not unload else None,
            failure=owner.failure if owner.lifecycle.failures != failures else None,
        )

    async def _memory(self, now: datetime) -> Memory:
        return memory_of(await self._server.measure(), reserved=self._server.owner.gpu_bytes[1], at=now)

    def _log_transition(self, status: Status) -> None:
        coming = status.next_transition.summary if status.next_transition else None
        log.info(
            "model.transition",
            state=status.state,
            target=status.target,
            reason=status.reason,
            message=status.message,
            next=coming,
        )
        if self._show is not None:
            self._show(table(self._manifest, status))

    async def _wait_for_change(self) -> None:
        """Sleep until the plan may change or something has changed."""
        await asyncio.sleep(_PAUSE_SECONDS)
        check_at = self._plan.check_at if self._plan else None
        while not self._changed.is_set():
            left = (check_at - self._clock()).total_seconds() if check_at else _LONGEST_SLEEP_SECONDS
            if left <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LONGEST_SLEEP_SECONDS)):
                    await self._changed.wait()


def _is_ordered(planned: Plan) -> bool:
    """Return whether the spec or a person decided, and not work or its absence."""
    return planned.reason not in (Reason.DEMAND, Reason.IDLE, Reason.SUSPENDED)
