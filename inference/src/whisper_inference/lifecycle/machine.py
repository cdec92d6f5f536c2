"""The words of the model's lifecycle: its state, what may happen to it, and what is then to be done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from whisper_inference.model_control import Depth, State

Ticket = int
"""Names one caller who waits for an answer."""


class Outcome(StrEnum):
    """What a caller is told."""

    LOADED = "loaded"
    ALREADY_LOADED = "already loaded"
    LOAD_FAILED = "load failed"
    UNLOADED = "unloaded"
    NOT_LOADED = "not loaded"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules; seconds.

    unload_after: of idleness, then the worker ends, and after as long again the zygote; None: never.
    backoff_first, backoff_most: wait after a failed load, doubling from the first to the most.
    """

    unload_after: float | None = None
    backoff_first: float = 1.0
    backoff_most: float = 60.0


# What callers want.
@dataclass(frozen=True, slots=True)
class Load:
    """Load the model, whatever a back-off says."""

    ticket: Ticket
    trigger: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Release the model between two jobs; force: without waiting for the running one."""

    ticket: Ticket
    depth: Depth
    reason: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Acquire:
    """Lend the worker to one job, loading the model first if need be."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The job of this ticket has ended, or no longer waits; or the upload of this ticket has become a job."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Expect:
    """Work is on its way (its upload has begun): load already, and do not count as idle."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The upload of this ticket came to nothing: it was refused or broke off, and never was any work."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


# What the processes did.
@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker holds the model."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The load came to nothing; depth: what is left of the processes."""

    depth: Depth


@dataclass(frozen=True, slots=True)
class Released:
    """The processes have ended, down to depth."""

    depth: Depth


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker ended by itself; depth: whether the zygote is left."""

    depth: Depth


@dataclass(frozen=True, slots=True)
class ZygoteDied:
    """The zygote ended by itself while no worker was there."""


Command = Load | Unload | Acquire | GiveBack | Expect | Withdraw | Tick
Fact = Loaded | LoadFailed | Released | WorkerDied | ZygoteDied
Event = Command | Fact


# What is to be done.
@dataclass(frozen=True, slots=True)
class StartLoad:
    """Bring the model into memory."""

    trigger: str


@dataclass(frozen=True, slots=True)
class StartRelease:
    """End the worker, or a load under way; with depth cold the zygote too."""

    depth: Depth
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Tell the holder of a ticket that the worker is its own now."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Settle:
    """Tell the holder of a ticket what came of its command."""

    ticket: Ticket
    outcome: Outcome


Effect = StartLoad | StartRelease | Grant | Settle


@dataclass(frozen=True, slots=True)
class WantedUnload:
    """An unload that was accepted and has not happened yet."""

    depth: Depth
    reason: str
    force: bool
    tickets: tuple[Ticket, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """An unloaded model: how deep, and since when."""

    depth: Depth
    since: float


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """All there is to know. Times are seconds of one monotonic clock.

    depth: what an unloaded model left behind. lessee: the job that has the worker. queue: jobs that wait for it, in
    order. expected: uploads under way. loaders: callers of load. retry_at: end of the back-off. active_at: end of the
    last work. began_at: when the work that runs, or ran last, got the worker; None: there never was any. broken_rest:
    what the model goes back to if the uploads that it was loaded for all come to nothing; None: it is loaded for more.
    """

    state: State = State.UNLOADED
    depth: Depth = Depth.COLD
    lessee: Ticket | None = None
    queue: tuple[Ticket, ...] = ()
    expected: frozenset[Ticket] = frozenset()
    loaders: tuple[Ticket, ...] = ()
    trigger: str = "demand"
    unload: WantedUnload | None = None
    failures: int = 0
    retry_at: float = 0.0
    active_at: float = 0.0
    changed_at: float = 0.0
    began_at: float | None = None
    broken_rest: Rest | None = None

    @property
    def wanted(self) -> bool:
        """Whether work waits for the model or is on its way."""
        return bool(self.queue or self.expected)

    @property
    def at_rest(self) -> bool:
        """Whether nothing runs, waits or is on its way."""
        return self.lessee is None and not self.wanted and not self.loaders

    @property
    def idle_since(self) -> float:
        """The later of the last work's end and the last change of state."""
        return max(self.active_at, self.changed_at)
