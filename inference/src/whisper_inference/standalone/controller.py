"""The loop that obeys: look, plan, act through the lifecycle's owner, note; then sleep until something changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, Protocol

import structlog
from pydantic import JsonValue

from whisper_inference.errors import RefusedForNow, RefusedUntil, ServiceError
from whisper_inference.jobs.background import BackgroundTasks
from whisper_inference.lifecycle.machine import Depth
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import Weight
from whisper_inference.lifecycle.receipts import LoadReceipt, UnloadReceipt
from whisper_inference.settings import Settings
from whisper_inference.standalone.manifest import Manifest, ManifestError, settings_of, without_effect
from whisper_inference.standalone.observe import Sight
from whisper_inference.standalone.record import FileLedger, Ledger, Record, digest_of
from whisper_inference.standalone.report import News, Picture, document_of, memory_of, next_status, table
from whisper_inference.standalone.watch import FileWatch
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, Step, manual_left, plan
from whispermodel.spec import Mode, State
from whispermodel.status import Manual, Memory, Status

_PAUSE_SECONDS = 0.1
"""Between two rounds at least: a burst of requests is one change, not a hundred."""
_LONGEST_SLEEP_SECONDS = 30.0
"""A sleeping machine's timers stand still; so often the calendar is asked whether the time has come."""
_FIGURES_SECONDS = 10.0
"""Times and words that merely moved are saved at most so often."""
_MOST_RETRY_AFTER = 86_400.0
"""Told where no end of the refusal is known."""
_FIGURES = {"idle_since", "next_transition", "message", "memory"}

log = structlog.stdlib.get_logger(__name__)


class Served(Protocol):
    """The server, as far as obeying needs it."""

    @property
    def owner(self) -> LifecycleOwner: ...
    async def queued(self) -> int: ...
    async def weigh(self) -> Weight: ...
    def configure(self, settings: Settings) -> None: ...


def _now() -> datetime:
    return datetime.now(UTC)


class Obedience:
    """Obeys a model file from `begin` on; `run` is its loop. settings: what the file makes of the server's own."""

    def __init__(
        self,
        watch: FileWatch,
        base: Settings,
        *,
        clock: Callable[[], datetime] = _now,
        ledger: Ledger | None = None,
        show: Callable[[str], None] | None = None,
    ) -> None:
        """Read the file. Raises ManifestError."""
        self._watch = watch
        self._base = base
        self._clock = clock
        self._ledger: Ledger = ledger or FileLedger(base.data_dir / "model.json")
        self._show = show
        self._manifest = watch.read()
        self._record = Record()
        self._problem: ManifestError | None = None
        self._plan: Plan | None = None
        self._changed = asyncio.Event()
        # What failed is in the owner's own log; what was superseded is planned again.
        self._background = BackgroundTasks("model.background_task_failed", expected=ServiceError)
        self._told: tuple[LoadReceipt | None, UnloadReceipt | None, int] = (None, None, 0)
        self._shown: tuple[State, State, Reason] | None = None
        self._saved_at: datetime | None = None
        self._saved = Status()
        self._one_at_a_time = asyncio.Lock()
        self.settings = settings_of(self._manifest.spec, base)

    @property
    def status(self) -> Status:
        """The status after the last round."""
        return self._record.status

    @property
    def manual(self) -> Manual | None:
        """The last load or unload by hand, also one from before a restart."""
        return self._record.manual

    async def begin(self, served: Served) -> None:
        """Take up what the record says and decide for the first time; the data folder must be ours already."""
        self._served = served
        self._record = self._ledger.read()
        self._sight = Sight(served.owner, idle_since=self.status.idle_since)
        self._adopt(self._manifest)
        if ignored := without_effect(self._manifest.spec):
            log.warning("model.without_effect", fields=ignored, reason="they mean something in a cluster only")
        await self._round()

    async def run(self) -> None:
        """Obey until cancelled."""
        watching = asyncio.create_task(self._follow_file())
        try:
            with self._served.owner.changes() as self._changed:
                while True:
                    await self._round_or_log()
                    await self._rest()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._ledger.save(self._record)

    async def keep_manual(self, state: Literal["Loaded", "Unloaded"], *, at: datetime) -> None:
        """Keep a load or unload by hand: it counts as a fire at that instant, also after a restart.

        The caller carries it out before anything else is decided, so that it gets the receipt.
        """
        async with self._one_at_a_time:
            self._record = self._record.model_copy(update={"manual": Manual(state=Mode(state), at=at)})
            await self._ledger.save(self._record)
            self._changed.set()

    def refusal(self) -> ServiceError | None:
        """Return why new work is kept out now; None: it is let in."""
        planned = self._plan
        if planned is None or planned.accepts:
            return None
        if planned.accepts_at is None:
            return RefusedForNow(retry_after=_MOST_RETRY_AFTER)
        seconds = max(1.0, (planned.accepts_at - self._clock()).total_seconds())
        local = planned.accepts_at.astimezone(self._manifest.spec.schedule.zone)
        return RefusedUntil(accepts_at=f"{local:%a %Y-%m-%d %H:%M %Z}", retry_after=seconds)

    def overruling(self) -> str | None:
        """Return the sentence of the order that keeps the model from being loaded; None: there is none but by hand."""
        planned = self._plan
        if planned is None or planned.target is State.LOADED or not _is_ordered(planned):
            return None
        return None if planned.reason is Reason.MANUAL else planned.message

    async def document(self) -> dict[str, JsonValue]:
        """Return the resource as kubectl would show it, with memory as it is now."""
        memory = await self._memory(self._clock())
        return document_of(self._manifest, self.status.model_copy(update={"memory": memory}))

    async def _follow_file(self) -> None:
        while True:
            try:
                async for found in self._watch.changes():
                    self._take_up(found)
            except Exception:
                # The boundary of this loop: the file is looked at again, and its next version is another chance.
                log.exception("model.file_not_followed")
                await asyncio.sleep(1)

    def _take_up(self, found: Manifest | ManifestError) -> None:
        if isinstance(found, ManifestError):
            self._problem = found
            log.warning("model.file_unusable", reason=str(found), obeyed="its last good version")
        else:
            self._problem = None
            self._adopt(found)
        self._changed.set()

    def _adopt(self, manifest: Manifest) -> None:
        """Obey a version of the spec; one that was obeyed before keeps its number and its time."""
        self._manifest, digest = manifest, digest_of(manifest.spec)
        if digest != self._record.digest:
            generation = self._record.generation + 1
            status = self.status.model_copy(update={"spec_since": self._clock().replace(microsecond=0)})
            self._record = self._record.model_copy(
                update={"generation": generation, "digest": digest, "status": status}
            )
            log.info("model.file_adopted", name=manifest.name, generation=generation)
        self.settings = settings_of(manifest.spec, self._base)
        self._served.configure(self.settings)

    async def _round_or_log(self) -> None:
        try:
            await self._round()
        except Exception:
            # The boundary of the loop: the server goes on, and the next change is another chance.
            log.exception("model.round_failed")
            await asyncio.sleep(1)

    async def _round(self) -> None:
        async with self._one_at_a_time:
            await self._look_plan_act_note()

    async def _look_plan_act_note(self) -> None:
        queued = await self._queued()
        seen, planned, now = self._planned(queued)
        if self._takes_no_doing(planned, seen):
            self._sight.at_zero = Step.SCALE_DOWN in planned.steps
            seen, planned, now = self._planned(queued)
        self._plan = planned
        self._act(planned, seen)
        await self._note(planned, seen, now=now)

    def _planned(self, queued: int) -> tuple[Observed, Plan, datetime]:
        now = self._clock()
        seen = self._sight.look(self._record, queued=queued, now=now)
        return seen, plan(self._manifest.spec, seen, now), now

    def _takes_no_doing(self, planned: Plan, seen: Observed) -> bool:
        """Tell whether the step would start or end a pod: there is none here but the server, which is up."""
        at_rest = seen.state in (State.UNLOADED, State.FAILED) and not seen.warm
        return Step.SCALE_UP in planned.steps or (Step.SCALE_DOWN in planned.steps and at_rest)

    async def _queued(self) -> int:
        """Return how many jobs wait, together with a lifecycle that has not moved since they were counted.

        A job is stored before its upload gives the lifecycle back: seen the other way round, it would be in neither.
        """
        queued = 0
        for _ in range(5):
            self._changed.clear()
            queued = await self._served.queued()
            if not self._changed.is_set():
                break
        return queued

    def _act(self, planned: Plan, seen: Observed) -> None:
        owner, reason = self._served.owner, planned.reason.value.lower()
        if owner.lifecycle.unload is not None:
            return
        if owner.holds_former_model:
            self._background.start(owner.unload(Depth.COLD, reason="changed", force=False))
            return
        # A failed load leaves its imports behind, and nobody wants them any more.
        left_behind = seen.state is State.FAILED and seen.warm and planned.target is State.UNLOADED
        if owner.lifecycle.broken_rest is not None and planned.target is State.LOADED and _is_ordered(planned):
            # Loaded for an upload so far; now it is meant to be, whatever becomes of the upload.
            self._background.start(owner.load(reason))
            return
        for step in planned.steps or ((Step.UNLOAD_COLD,) if left_behind else ()):
            match step:
                case Step.LOAD:
                    self._background.start(owner.load(reason))
                case Step.UNLOAD_WARM:
                    self._background.start(owner.unload(Depth.WARM, reason=reason, force=False))
                case _:
                    self._sight.at_zero = step is Step.SCALE_DOWN
                    self._background.start(owner.unload(Depth.COLD, reason=reason, force=False))

    async def _note(self, planned: Plan, seen: Observed, *, now: datetime) -> None:
        """Bring the status up to date; say so and save it where something happened."""
        shows = (seen.state, planned.target, planned.reason)
        moved, self._shown = shows != self._shown, shows
        picture = self._picture(planned, seen, now=now, news=self._news())
        if moved:
            picture = replace(picture, memory=await self._memory(now))
        status = next_status(self.status, picture)
        self._record = self._record.model_copy(update={"status": status})
        if moved:
            self._tell(status)
        if self._is_due(status, now):
            self._saved, self._saved_at = status, now
            await self._ledger.save(self._record)

    def _picture(self, planned: Plan, seen: Observed, *, now: datetime, news: News) -> Picture:
        owner = self._served.owner
        loaded = seen.state is State.LOADED and owner.load_receipt is not None
        return Picture(
            now=now,
            generation=self._record.generation,
            state=seen.state,
            plan=planned,
            device=owner.load_receipt.device if loaded and owner.load_receipt else None,
            memory=self.status.memory,
            idle_since=seen.idle_since,
            manual=self._record.manual if manual_left(self._manifest.spec, seen, now) else None,
            news=news,
            failure=str(owner.failure) if owner.failure else None,
            failures=owner.lifecycle.failures,
            changing=owner.holds_former_model,
            problem=self._problem,
        )

    def _news(self) -> News:
        owner, (load, unload, failures) = self._served.owner, self._told
        self._told = (owner.load_receipt, owner.unload_receipt, owner.lifecycle.failures)
        return News(
            load=owner.load_receipt if owner.load_receipt is not load else None,
            unload=owner.unload_receipt if owner.unload_receipt is not unload else None,
            failure=owner.failure if owner.lifecycle.failures != failures else None,
        )

    async def _memory(self, now: datetime) -> Memory:
        return memory_of(await self._served.weigh(), reserved=self._served.owner.gpu_bytes[1], at=now)

    def _tell(self, status: Status) -> None:
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

    def _is_due(self, status: Status, now: datetime) -> bool:
        """Tell whether to save: at once for what happened, and for what merely moved once in a while."""
        blank = dict.fromkeys(_FIGURES)
        if status.model_copy(update=blank) != self._saved.model_copy(update=blank):
            return True
        late = self._saved_at is None or (now - self._saved_at).total_seconds() >= _FIGURES_SECONDS
        return late and status != self._saved

    async def _rest(self) -> None:
        """Sleep until the plan may change or something has."""
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
    """Tell whether the spec or a person decided, and not what work or its absence comes to."""
    return planned.reason not in (Reason.DEMAND, Reason.IDLE, Reason.SUSPENDED)
