"""Demand for the models: held while a request or a job needs one, and made known to whoever scales it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from whisper_cluster.errors import CallFailed
from whisper_inference.jobs.background import BackgroundTasks
from whispermodel.key import Key
from whispermodel.planning.modes import ManualCommand

log = structlog.stdlib.get_logger(__name__)

LEASE_SECONDS = 15
"""How long demand outlives a gateway that was killed."""
_RENEW_SECONDS = 5.0
"""Between two renewals: two may fail."""
LINGER_SECONDS = _RENEW_SECONDS
"""Work that follows within this time of the last needs no write."""
BRIDGE_SECONDS = 0.5
"""Between an upload's end and its job's turn. Demand that no pod has served is taken back after this time."""
_RETRY_SECONDS = (0.2, 5.0)
"""The first and the longest pause after a write that failed."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is declared about a model at one instant."""

    renewed_at: datetime | None = None
    """There is demand from here on, for `seconds`; None: there was none that counts."""
    seconds: int = LEASE_SECONDS
    """How long the demand lasts unless it is renewed."""
    began_at: datetime | None = None
    """Since when there has been demand."""
    manual: ManualCommand | None = None
    """The last manual load or unload."""


class Declares(Protocol):
    """Makes demand known."""

    async def declare(self, key: Key, declaration: Declaration) -> None:
        """Replace what was declared about a model. Raises CallFailed."""
        ...


class WakeMetrics(Protocol):
    """Counts models that were woken."""

    def woken(self, key: Key, seconds: float) -> None: ...
    def wake_abandoned(self, key: Key) -> None: ...
    def wake_failed(self, key: Key) -> None: ...


@dataclass(slots=True, eq=False)
class _Held:
    """The demand for one model, from its first holder until its end is declared."""

    began_at: datetime
    """When it began."""
    waking_since: float | None
    """Since when the model is being woken (monotonic); None: it serves already, or has been reached since."""
    holders: int = 0
    """How many requests and jobs need the model."""
    served: bool = False
    """Whether a pod took any of their work."""
    ended_at: datetime | None = None
    """When the last holder left; None: there is one."""
    left_at: float = 0.0
    """The same on the monotonic clock."""
    declared: bool = False
    """Whether there is demand according to what was declared last."""
    renew_at: float = 0.0
    """When the demand must be declared again (monotonic)."""
    commanded: bool = False
    """Whether there is a manual command that is not declared yet."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something must be declared before the next renewal."""

    def lingers_for(self, seconds: float) -> float:
        """Return how much longer the end is not declared: work may follow at once, as a job follows its upload."""
        linger = seconds if self.served else BRIDGE_SECONDS
        return self.left_at + linger - time.monotonic()


@dataclass(slots=True, kw_only=True)
class Demand:
    """Declares the demand for each model while it is held; one task for each model that is needed."""

    declares: Declares
    """Where it is made known."""
    is_serving: Callable[[Key], bool]
    """Whether a pod of a model can take work now."""
    is_failing: Callable[[Key], bool]
    """Whether its operator reports that it cannot be used."""
    metrics: WakeMetrics
    """Where wakes are counted."""
    linger_seconds: float = LINGER_SECONDS
    """How long after work that was served its end is not declared."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The current time, in UTC."""
    _held: dict[Key, _Held] = field(default_factory=dict[Key, _Held])
    _manual: dict[Key, ManualCommand] = field(default_factory=dict[Key, ManualCommand])
    _worked_at: dict[Key, float] = field(default_factory=dict[Key, float])
    _tasks: BackgroundTasks = field(default_factory=lambda: BackgroundTasks("demand.failed"))

    @contextmanager
    def hold(self, key: Key) -> Generator[None]:
        """Hold demand for a model."""
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = self._begun(key)
            self._tasks.start(self._keep(key, held))
        held.holders += 1
        held.ended_at = None
        if not held.declared:
            held.changed.set()
        try:
            yield
        finally:
            held.holders -= 1
            if not held.holders:
                held.ended_at, held.left_at = self.clock(), time.monotonic()
                self._worked_at[key] = held.left_at
                held.changed.set()

    def _begun(self, key: Key) -> _Held:
        return _Held(self.clock(), None if self.is_serving(key) else time.monotonic())

    def note_served(self, key: Key) -> None:
        """Note that a pod took work: the demand was not in vain."""
        held = self._held.get(key)
        if held is None:
            return
        held.served = True
        if held.waking_since is not None:
            self.metrics.woken(key, time.monotonic() - held.waking_since)
            held.waking_since = None

    def command(self, key: Key, command: ManualCommand) -> None:
        """Declare a manual load or unload."""
        self._manual[key] = command
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = self._begun(key)
            held.waking_since = None
            self._tasks.start(self._keep(key, held))
        held.commanded = True
        held.changed.set()

    def idle_seconds(self, key: Key) -> float | None:
        """Return for how long nothing has needed a model; 0 while something does; None: nothing ever has."""
        held = self._held.get(key)
        if held is not None and held.holders:
            return 0.0
        worked_at = self._worked_at.get(key)
        return None if worked_at is None else time.monotonic() - worked_at

    async def stop(self) -> None:
        """Stop renewing; what is held expires by itself, so that another gateway finds the model awake."""
        await self._tasks.cancel()

    async def _keep(self, key: Key, held: _Held) -> None:
        """Declare what changes, in order: renewals while there are holders, then the end."""
        while True:
            held.changed.clear()
            if held.holders:
                if held.commanded or time.monotonic() >= held.renew_at:
                    held.commanded, held.renew_at = False, time.monotonic() + _RENEW_SECONDS
                    await self._declare(key, held)
                    held.declared = True
                wait = held.renew_at - time.monotonic()
            elif held.commanded or (wait := held.lingers_for(self.linger_seconds)) <= 0:
                held.commanded = False
                await self._declare(key, held)
                if not held.holders and not held.commanded:
                    # Nothing is awaited between this and the last look: whoever comes next begins anew.
                    del self._held[key]
                    return
                self._begin_anew(key, held)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await held.changed.wait()

    def _begin_anew(self, key: Key, held: _Held) -> None:
        held.began_at, held.waking_since = self.clock(), self._begun(key).waking_since
        held.declared, held.served, held.renew_at = False, False, 0.0

    def _declaration(self, key: Key, held: _Held) -> Declaration:
        """Return what is to be declared now."""
        manual = self._manual.get(key)
        if held.holders:
            return Declaration(self.clock(), LEASE_SECONDS, held.began_at, manual)
        if not held.served:
            return Declaration(manual=manual)
        ended_at = (held.ended_at or self.clock()) - timedelta(seconds=1)
        return Declaration(ended_at, 1, held.began_at, manual)

    def _count_wake_in_vain(self, key: Key, held: _Held) -> None:
        if not held.holders and not held.served and held.waking_since is not None:
            (self.metrics.wake_failed if self.is_failing(key) else self.metrics.wake_abandoned)(key)
            held.waking_since = None

    async def _declare(self, key: Key, held: _Held) -> None:
        """Declare what is the case, until it succeeds."""
        self._count_wake_in_vain(key, held)
        pause, longest = _RETRY_SECONDS
        while True:
            try:
                return await self.declares.declare(key, self._declaration(key, held))
            except CallFailed as error:
                log.warning("demand.not_declared", whispermodel=str(key), reason=str(error), retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
