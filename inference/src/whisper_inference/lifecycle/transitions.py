"""The model's lifecycle as a pure function: an event goes in, the next state and its effects come out.

There is one owner of this state (owner.py). This module has no clock, no process and no await, so that every
interleaving can be tested. At most one of the effects StartLoad and StartRelease is in progress at a time; each is
answered by one fact (Loaded or LoadFailed; Released), except that a StartRelease cancels a StartLoad in progress.
"""

from __future__ import annotations

from dataclasses import replace

from whisper_inference.lifecycle.idle_time import idle_time_ends, is_idle, is_idle_time_over
from whisper_inference.lifecycle.machine import (
    Acquire,
    Effect,
    Event,
    Expect,
    Finish,
    Grant,
    Lifecycle,
    Load,
    Loaded,
    LoadFailed,
    Outcome,
    Policy,
    Released,
    Settle,
    StartLoad,
    StartRelease,
    Ticket,
    Unload,
    UnloadedSince,
    WantedUnload,
    Withdraw,
    WorkerDied,
    ZygoteDied,
)
from whispermodel.states import Depth, State


def step(lifecycle: Lifecycle, event: Event, *, now: float, policy: Policy) -> tuple[Lifecycle, tuple[Effect, ...]]:
    """Return the state after an event, and its effects."""
    after, effects = _apply_event(lifecycle, event, now=now, policy=policy)
    while True:
        advanced, more = _advance(after, now=now, policy=policy)
        effects += more
        if advanced == after:
            return after, effects
        after = advanced


def without_failures(lifecycle: Lifecycle) -> Lifecycle:
    """Return the state for another model: failures of the former one do not count."""
    state = State.UNLOADED if lifecycle.state is State.FAILED else lifecycle.state
    return replace(lifecycle, state=state, failures=0, retry_at=0.0)


def next_deadline(lifecycle: Lifecycle, policy: Policy) -> float | None:
    """Return when the next Tick may change something; None: only an event can."""
    if lifecycle.state is State.FAILED and lifecycle.wanted:
        return lifecycle.retry_at
    holds_something = lifecycle.state is State.LOADED or (
        lifecycle.state in (State.UNLOADED, State.FAILED) and lifecycle.depth is Depth.WARM
    )
    return idle_time_ends(lifecycle, policy) if holds_something else None


def _apply_event(
    lifecycle: Lifecycle, event: Event, *, now: float, policy: Policy
) -> tuple[Lifecycle, tuple[Effect, ...]]:
    """Record an event; _advance takes the steps that follow from it."""
    match event:
        case Load():
            return _want_load(lifecycle, event)
        case Unload():
            return _want_unload(lifecycle, event)
        case Acquire(ticket=ticket):
            return replace(lifecycle, queue=(*lifecycle.queue, ticket)), ()
        case Expect(ticket=ticket):
            return replace(lifecycle, expected=lifecycle.expected | {ticket}), ()
        case Finish(ticket=ticket):
            return _forget_ticket(lifecycle, ticket, now=now), ()
        case Withdraw(ticket=ticket):
            return replace(lifecycle, expected=lifecycle.expected - {ticket}), ()
        case _:
            return _apply_fact(lifecycle, event, now=now, policy=policy)


def _apply_fact(
    lifecycle: Lifecycle, event: Event, *, now: float, policy: Policy
) -> tuple[Lifecycle, tuple[Effect, ...]]:
    """Record what the processes did."""
    match event:
        case Loaded() | LoadFailed() if lifecycle.state is State.LOADING:
            return _end_load(lifecycle, event, now=now, policy=policy)
        case Released(depth=depth):
            return _end_release(lifecycle, depth, now=now)
        case WorkerDied(depth=depth) if lifecycle.state is State.LOADED:
            return replace(lifecycle, state=State.UNLOADED, depth=depth, changed_at=now), ()
        case ZygoteDied() if lifecycle.state in (State.UNLOADED, State.FAILED):
            return replace(lifecycle, depth=Depth.COLD), ()
        case _:
            # A Tick, or a fact about a cancelled load or a released worker.
            return lifecycle, ()


def _want_load(lifecycle: Lifecycle, command: Load) -> tuple[Lifecycle, tuple[Effect, ...]]:
    """The latest command wins: a load supersedes an unload that still waits for running work."""
    effects: tuple[Effect, ...] = ()
    lifecycle = replace(lifecycle, revert_to=None)
    if lifecycle.state is State.LOADED:
        effects, lifecycle = _supersede_unload(lifecycle)
        return lifecycle, (*effects, Settle(command.ticket, Outcome.ALREADY_LOADED))
    return replace(lifecycle, loaders=(*lifecycle.loaders, command.ticket), trigger=command.trigger), effects


def _supersede_unload(lifecycle: Lifecycle) -> tuple[tuple[Effect, ...], Lifecycle]:
    tickets = lifecycle.unload.tickets if lifecycle.unload else ()
    return tuple(Settle(ticket, Outcome.SUPERSEDED) for ticket in tickets), replace(lifecycle, unload=None)


def _want_unload(lifecycle: Lifecycle, command: Unload) -> tuple[Lifecycle, tuple[Effect, ...]]:
    """Join a pending unload, at the greater depth; loads that wait behind it are superseded."""
    wanted = lifecycle.unload
    unload = WantedUnload(
        depth=Depth.COLD if wanted and wanted.depth is Depth.COLD else command.depth,
        reason=command.reason,
        force=command.force or bool(wanted and wanted.force),
        tickets=(*(wanted.tickets if wanted else ()), command.ticket),
    )
    given_up = tuple(Settle(ticket, Outcome.SUPERSEDED) for ticket in lifecycle.loaders)
    return replace(lifecycle, unload=unload, loaders=(), revert_to=None), given_up


def _forget_ticket(lifecycle: Lifecycle, ticket: Ticket, *, now: float) -> Lifecycle:
    ran = lifecycle.running == ticket
    # An upload is work too: otherwise the idle time could be over at its end, before its job asks for the worker.
    worked = ran or ticket in lifecycle.expected
    return replace(
        lifecycle,
        running=None if ran else lifecycle.running,
        queue=tuple(waiting for waiting in lifecycle.queue if waiting != ticket),
        expected=lifecycle.expected - {ticket},
        active_at=now if worked else lifecycle.active_at,
        revert_to=None if worked else lifecycle.revert_to,
    )


def _end_load(
    lifecycle: Lifecycle, fact: Loaded | LoadFailed, *, now: float, policy: Policy
) -> tuple[Lifecycle, tuple[Effect, ...]]:
    loaded = isinstance(fact, Loaded)
    outcome = Outcome.LOADED if loaded else Outcome.LOAD_FAILED
    settled = tuple(Settle(ticket, outcome) for ticket in lifecycle.loaders)
    after = replace(lifecycle, loaders=(), changed_at=now)
    if isinstance(fact, Loaded):
        return replace(after, state=State.LOADED, failures=0, retry_at=0.0), settled
    wait = min(policy.backoff_first * 2**lifecycle.failures, policy.backoff_most)
    failures = lifecycle.failures + 1
    after = replace(after, failures=failures, retry_at=now + wait, revert_to=None)
    return replace(after, state=State.FAILED, depth=fact.depth), settled


def _end_release(lifecycle: Lifecycle, depth: Depth, *, now: float) -> tuple[Lifecycle, tuple[Effect, ...]]:
    # A failure stays visible while its remains are cleaned up.
    state = State.FAILED if lifecycle.failures else State.UNLOADED
    # Uploads that failed must not restart the idle time.
    since = lifecycle.revert_to.since if lifecycle.revert_to else now
    after = replace(lifecycle, state=state, depth=depth, changed_at=since, revert_to=None)
    unload = lifecycle.unload
    if unload is None or (unload.depth is Depth.COLD and depth is Depth.WARM):
        return after, ()
    return replace(after, unload=None), tuple(Settle(ticket, Outcome.UNLOADED) for ticket in unload.tickets)


def _advance(lifecycle: Lifecycle, *, now: float, policy: Policy) -> tuple[Lifecycle, tuple[Effect, ...]]:
    """Take the next step that the state requires, if any."""
    revert_to = lifecycle.revert_to
    match lifecycle.state:
        case State.LOADING | State.LOADED if revert_to is not None and is_idle(lifecycle):
            unload = WantedUnload(revert_to.depth, reason="withdrawn", force=False, tickets=())
            return _release(replace(lifecycle, unload=unload))
        case State.LOADED:
            return _advance_loaded(lifecycle, now=now, policy=policy)
        case State.LOADING if lifecycle.unload is not None:
            return _release(lifecycle)
        case State.UNLOADED | State.FAILED:
            return _advance_unloaded(lifecycle, now=now, policy=policy)
        case _:
            return lifecycle, ()


def _advance_loaded(lifecycle: Lifecycle, *, now: float, policy: Policy) -> tuple[Lifecycle, tuple[Effect, ...]]:
    if lifecycle.unload is not None:
        may_release = lifecycle.running is None or lifecycle.unload.force
        return _release(lifecycle) if may_release else (lifecycle, ())
    if lifecycle.running is None and lifecycle.queue:
        first, *others = lifecycle.queue
        return replace(lifecycle, running=first, queue=tuple(others), began_at=now), (Grant(first),)
    if is_idle_time_over(lifecycle, policy, now=now):
        return _release(replace(lifecycle, unload=_idle_unload(Depth.WARM)))
    return lifecycle, ()


def _advance_unloaded(lifecycle: Lifecycle, *, now: float, policy: Policy) -> tuple[Lifecycle, tuple[Effect, ...]]:
    unload = lifecycle.unload
    if unload is not None:
        if unload.depth is Depth.COLD and lifecycle.depth is Depth.WARM:
            return _release(lifecycle)
        return replace(lifecycle, unload=None), tuple(Settle(ticket, Outcome.NOT_LOADED) for ticket in unload.tickets)
    backing_off = lifecycle.state is State.FAILED and now < lifecycle.retry_at
    if lifecycle.loaders or (lifecycle.wanted and not backing_off):
        return _start_load(lifecycle, now=now)
    if lifecycle.depth is Depth.WARM and is_idle_time_over(lifecycle, policy, now=now):
        return _release(replace(lifecycle, unload=_idle_unload(Depth.COLD)))
    return lifecycle, ()


def _start_load(lifecycle: Lifecycle, *, now: float) -> tuple[Lifecycle, tuple[Effect, ...]]:
    trigger = lifecycle.trigger if lifecycle.loaders else "demand"
    revert_to = None
    if not lifecycle.loaders and not lifecycle.queue:
        # After a worker's death during the same uploads, the state before the first load counts.
        revert_to = lifecycle.revert_to or UnloadedSince(lifecycle.depth, lifecycle.changed_at)
    after = replace(lifecycle, state=State.LOADING, trigger=trigger, changed_at=now, revert_to=revert_to)
    return after, (StartLoad(trigger),)


def _release(lifecycle: Lifecycle) -> tuple[Lifecycle, tuple[Effect, ...]]:
    assert lifecycle.unload is not None
    effect = StartRelease(lifecycle.unload.depth, lifecycle.unload.reason)
    return replace(lifecycle, state=State.UNLOADING), (effect,)


def _idle_unload(depth: Depth) -> WantedUnload:
    return WantedUnload(depth=depth, reason="idle", force=False, tickets=())
