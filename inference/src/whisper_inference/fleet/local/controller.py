"""The control loop of one machine with several models: observe, plan, place, act, publish; wait for a change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from whisper_cluster.cache import model_of
from whisper_cluster.objects import Pod
from whisper_cluster.pods import Address, Http
from whisper_inference.errors import ModelDoesNotFit
from whisper_inference.fleet.local.attendance import Attendance, Phase
from whisper_inference.fleet.local.declared import DeclaredDemand
from whisper_inference.fleet.local.folder import FoundModel, ModelFolder
from whisper_inference.fleet.local.hosted_model import HostedModel
from whisper_inference.fleet.local.placement import Placement, place
from whisper_inference.fleet.local.publication import Publication
from whisper_inference.fleet.local.server_process import environment_of
from whisper_inference.fleet.pod_pool import PodPool
from whisper_inference.fleet.settings import GatewaySettings
from whisper_inference.standalone.record import RecordFile
from whispermodel.key import Key
from whispermodel.planning.planner import Step
from whispermodel.states import Depth, State

log = structlog.stdlib.get_logger(__name__)

_LOOK_SECONDS = 1.0
"""How often the folder is checked: one stat(2) for each file."""
_PAUSE_SECONDS = 0.002
"""Minimum time between two rounds: a burst of requests is one change, not a hundred."""
_LONGEST_SLEEP_SECONDS = 10.0
"""Figures are published at least this often, and a suspended machine's timers stand still."""


@dataclass(slots=True, kw_only=True)
class LocalFleet:
    """Runs the models of a folder, and shows them to the gateway as a cluster would."""

    folder: ModelFolder
    """Where the models are declared."""
    settings: GatewaySettings
    """The gateway's."""
    budget: int
    """How many bytes the models may hold together."""
    demand: DeclaredDemand
    """What they are needed for."""
    pool: PodPool
    """Which of their servers are lent."""
    http: Http
    """How their servers are reached."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The current time, in UTC."""
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the models are known."""
    publication: Publication
    """Shows them to the gateway."""
    _models: dict[Key, HostedModel] = field(default_factory=dict[Key, HostedModel])
    _leaving: list[HostedModel] = field(default_factory=list[HostedModel])
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Look again: something may have changed."""
        self._changed.set()

    def address_of(self, pod: Pod) -> Address | None:
        """Return where a model's server listens now; None: it does not."""
        model = self._of(pod)
        return model.server.address if model else None

    def note_granted(self, pod: Pod) -> None:
        """Have a server report: it has lent its slot, so its model is loaded, whoever asked for that."""
        if (model := self._of(pod)) is not None:
            model.server.poke()

    def _of(self, pod: Pod) -> HostedModel | None:
        key = model_of(pod)
        model = self._models.get(key) if key else None
        return model if model and model.server.uid == pod.metadata.uid else None

    async def run(self) -> None:
        """Run the models until cancelled; then their servers are ended and reaped."""
        self._adopt(self.folder.read())
        watching = asyncio.create_task(self._watch_folder())
        try:
            while True:
                self._changed.clear()
                check_at = await self._round_or_log()
                self.synced.set()
                await self._wait(check_at)
        finally:
            watching.cancel()
            every = [*self._models.values(), *self._leaving]
            await asyncio.gather(watching, *(one.server.ended() for one in every), return_exceptions=True)
            for one in self._models.values():
                await one.records.save(one.record)

    async def _watch_folder(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                # In a thread: a file system may block.
                found = await asyncio.to_thread(self.folder.look)
                if found is not None:
                    self._adopt(found)
            except Exception:
                # The boundary of this loop: the next look is another chance.
                log.exception("models.folder_not_read")

    def _adopt(self, found: dict[str, FoundModel]) -> None:
        """Put the contents of the folder into effect."""
        models, now = {Key(self.settings.namespace, name): one for name, one in found.items()}, self.clock()
        for key, one in models.items():
            if key in self._models:
                self._models[key].adopt(one, now)
            else:
                log.info("model.added", whispermodel=str(key), path=str(one.path))
                self._models[key] = self._hosted(key, one, now)
        for key in self._models.keys() - models.keys():
            log.info("model.removed", whispermodel=str(key))
            self._remove(key)
        self.wake()

    def _hosted(self, key: Key, found: FoundModel, now: datetime) -> HostedModel:
        folder = self.settings.data_dir / "servers" / key.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = Attendance(key=key, folder=folder, http=self.http, on_change=self.wake)
        return HostedModel.of(key, found, records=RecordFile(folder / "model.json"), server=server, now=now)

    def _remove(self, key: Key) -> None:
        """Forget a model whose file is gone; its server ends when the running job has."""
        model = self._models.pop(key)
        self._leaving.append(model)
        self.demand.forget(key)
        self.publication.remove(key)

    async def _round_or_log(self) -> datetime | None:
        try:
            return await self._round()
        except Exception:
            # The boundary of the loop: the next change is another chance.
            log.exception("models.round_failed")
            await asyncio.sleep(1)
            self.wake()
            return None

    async def _round(self) -> datetime | None:
        """Bring every model a step towards its target; return when to look again."""
        now = self.clock()
        for key, model in self._models.items():
            running = self.pool.is_lent(model.server.uid)
            model.look(self.demand.of(key), running=running, now=now)
        placement = place((one.tenant() for one in self._models.values()), budget=self.budget, now=now)
        for key, leave in placement.leaving.items():
            self._models[key].make_room(leave, now)
        for model in tuple(self._models.values()):
            self._act(model, placement)
            await self._publish(model, placement)
        self._end_removed()
        times = [placement.check_at, *(one.plan.check_at for one in self._models.values())]
        return min((time for time in times if time is not None), default=None)

    def _act(self, model: HostedModel, placement: Placement) -> None:
        """Take the step that is due; a model without a place is not loaded."""
        server, running = model.server, model.sighting.running
        if self._is_stale(model):
            # A job that runs ends first; no other one is sent there.
            if not running:
                server.end()
            return
        for step in model.plan.steps:
            match step:
                case Step.SCALE_UP | Step.LOAD if (
                    model.plan.target is State.LOADED and model.key not in placement.placed
                ):
                    pass
                case Step.SCALE_UP | Step.LOAD if server.phase is Phase.ABSENT:
                    self._start(model)
                case Step.LOAD:
                    model.loads_for = model.plan.reason.value
                    server.load()
                case Step.UNLOAD_WARM | Step.UNLOAD_COLD if server.phase is Phase.UP and not running:
                    server.unload(Depth.WARM if step is Step.UNLOAD_WARM else Depth.COLD)
                case Step.SCALE_DOWN if server.phase in (Phase.UP, Phase.STARTING) and not running:
                    server.end()
                case _:
                    pass

    def _start(self, model: HostedModel) -> None:
        preload = model.plan.target is State.LOADED
        model.loads_for = model.plan.reason.value
        model.server.start(environment_of(model.spec, self.settings, preload=preload))

    def _is_stale(self, model: HostedModel) -> bool:
        """Return whether the server was started for another version of the spec."""
        if model.server.phase is not Phase.UP:
            return False
        preload = model.server.environment.get("WHISPER_PRELOAD_MODEL") == "true"
        return environment_of(model.spec, self.settings, preload=preload) != model.server.environment

    async def _publish(self, model: HostedModel, placement: Placement) -> None:
        """Show a model and its server to the gateway, if anything about them has changed."""
        unfit = None
        if (short := placement.refused.get(model.key)) is not None:
            unfit = ModelDoesNotFit(
                needed_bytes=short.needed, available_bytes=short.available, where="the memory budget"
            )
        stale = self._is_stale(model)
        model.update(placement, unfit=unfit, budget=self.budget, stale=stale)
        await model.save()
        if model.key not in self._models:
            return  # Its file was removed meanwhile.
        takes_work = model.server.phase is Phase.UP and model.key in placement.placed and not stale
        self.publication.show(model, unfit=unfit, takes_work=takes_work)

    def _end_removed(self) -> None:
        """End the servers of models that are gone once no job runs on them."""
        for model in tuple(self._leaving):
            server = model.server
            if server.phase is Phase.ABSENT:
                self._leaving.remove(model)
            elif server.phase is not Phase.ENDING and not self.pool.is_lent(server.uid):
                server.end()

    async def _wait(self, check_at: datetime | None) -> None:
        """Sleep until the plan may change or something has changed."""
        await asyncio.sleep(_PAUSE_SECONDS)
        left = (check_at - self.clock()).total_seconds() if check_at else _LONGEST_SLEEP_SECONDS
        back_offs = [one.server.back_off.left for one in self._models.values() if one.server.back_off.left]
        seconds = max(0.0, min((left, _LONGEST_SLEEP_SECONDS, *back_offs)))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
