"""The types of the model's lifecycle: its state, the events that may change it, and their effects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from whispermodel.states import Depth, ServerState, State

Ticket = int
"""Identifies one caller that waits for an answer."""


class Outcome(StrEnum):
    """The answer to a command."""

    LOADED = "loaded"
    ALREADY_LOADED = "already loaded"
    LOAD_FAILED = "load failed"
    UNLOADED = "unloaded"
    NOT_LOADED = "not loaded"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, in seconds."""

    unload_after: float | None = None
    """Idle time after which the worker ends, and after as long again the zygote; None: never."""
    backoff_first: float = 1.0
    """Wait after the first failed load; it doubles with each further one."""
    backoff_most: float = 60.0
    """The longest wait after a failed load."""


# Commands.
@dataclass(frozen=True, slots=True)
class Load:
    """Load the model, even during a back-off."""

    ticket: Ticket
    trigger: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Release the model between two jobs."""

    ticket: Ticket
    """Who gets the answer."""
    depth: Depth
    """Whether the zygote ends too."""
    reason: str
    """Who or what asked for it."""
    force: bool = False
    """Whether the running job is interrupted instead of finished."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Lend the worker to one job, loading the model first if necessary."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Finish:
    """The job of this ticket has ended or no longer waits, or the upload of this ticket has become a job."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Expect:
    """An upload has begun: load already, and do not count as idle."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The upload of this ticket was refused or broke off: it does not count as work."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


# Facts about the processes.
@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker holds the model."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The load failed; depth: what is left of the processes."""

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


Command = Load | Unload | Acquire | Finish | Expect | Withdraw | Tick
Fact = Loaded | LoadFailed | Released | WorkerDied | ZygoteDied
Event = Command | Fact


# Effects.
@dataclass(frozen=True, slots=True)
class StartLoad:
    """Bring the model into memory."""

    trigger: str


@dataclass(frozen=True, slots=True)
class StartRelease:
    """End the worker or a load in progress, and with depth cold the zygote too."""

    depth: Depth
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Give the worker to the holder of a ticket."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Settle:
    """Answer the holder of a ticket."""

    ticket: Ticket
    outcome: Outcome


Effect = StartLoad | StartRelease | Grant | Settle


@dataclass(frozen=True, slots=True)
class WantedUnload:
    """An unload that was accepted and has not happened yet."""

    depth: Depth
    """The greatest depth that anybody asked for."""
    reason: str
    """Who or what asked for it last."""
    force: bool
    """Whether the running job is interrupted."""
    tickets: tuple[Ticket, ...]
    """Who waits for it."""


@dataclass(frozen=True, slots=True)
class UnloadedSince:
    """An unloaded model: how deep, and since when."""

    depth: Depth
    since: float


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The whole state. Times are seconds of one monotonic clock."""

    state: ServerState = State.UNLOADED
    """The model's state, as status shows it."""
    depth: Depth = Depth.COLD
    """What an unloaded model left behind."""
    running: Ticket | None = None
    """The job that has the worker."""
    queue: tuple[Ticket, ...] = ()
    """Jobs that wait for the worker, in order."""
    expected: frozenset[Ticket] = frozenset()
    """Uploads in progress."""
    loaders: tuple[Ticket, ...] = ()
    """Callers that wait for a load."""
    trigger: str = "demand"
    """Who or what asked for the load."""
    unload: WantedUnload | None = None
    """The unload that comes next."""
    failures: int = 0
    """Consecutive failed loads."""
    retry_at: float = 0.0
    """End of the back-off."""
    active_at: float = 0.0
    """End of the last work."""
    changed_at: float = 0.0
    """When the state last changed."""
    began_at: float | None = None
    """When the running work, or else the last one, got the worker; None: there was none yet."""
    revert_to: UnloadedSince | None = None
    """What the model returns to if all uploads that it was loaded for fail; None: it is loaded for other work too."""

    @property
    def wanted(self) -> bool:
        """Whether work waits for the model or is being uploaded."""
        return bool(self.queue or self.expected)
