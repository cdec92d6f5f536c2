"""Which models may be in memory at the same time, and which one makes room for another. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from whispermodel.key import Key
from whispermodel.states import State

TURN = timedelta(seconds=60)
"""How long a model with work keeps its place while another one waits: swapping two small models takes seconds, and
with n models waiting, no request is overtaken for longer than n turns and the jobs that were running."""
SERVER_BYTES = 96 * 2**20
"""What a server process holds without a model (measured: 88 MiB)."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One model, as far as memory is concerned."""

    key: Key
    """Which one."""
    holds: int
    """Bytes that its processes hold now."""
    needs: int
    """Bytes that they hold with the model in memory."""
    placed_at: datetime | None = None
    """Since when it has been in memory, or is being brought there; None: it is not."""
    waits_since: datetime | None = None
    """Since when a request or an order has waited for it to be loaded; None: none does."""
    needed: bool = False
    """Whether requests wait for it or are being served."""
    ordered: bool = False
    """Whether its schedule, override, desired state or a person keeps it loaded."""
    idle_since: datetime | None = None
    """When its last work ended."""

    @property
    def charge(self) -> int:
        """What is counted for it: a model that is being loaded does not hold yet what it needs."""
        return max(self.holds, self.needs) if self.placed_at else self.holds


@dataclass(frozen=True, slots=True)
class Leave:
    """A model's order to make room."""

    to: State
    """Unloaded: the model goes; Zero: its server as well."""
    room_for: Key
    """For which model."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """How much memory a model needs, and how much it could get at most; bytes."""

    needed: int
    available: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What was decided."""

    placed: frozenset[Key]
    """Models that may be loaded, or stay so."""
    leaving: Mapping[Key, Leave] = field(default_factory=dict[Key, Leave])
    """Models that make room."""
    refused: Mapping[Key, Shortage] = field(default_factory=dict[Key, Shortage])
    """Models that do not fit beside those that must stay."""
    check_at: datetime | None = None
    """When a turn ends that somebody waits for."""


def place(tenants: Iterable[Tenant], *, budget: int, now: datetime) -> Placement:
    """Return who may be in memory within a budget of bytes.

    Models that wait are served in the order in which they began to wait, and none overtakes another. Room is made by
    those that nobody needs, the longest idle first; then by those with work whose turn is over. Never by those that are
    kept loaded on purpose.
    """
    every = tuple(tenants)
    refused = {one.key: short for one in every if (short := _shortage(one, every, budget=budget))}
    placed = {one.key for one in every if one.placed_at}
    leaving: dict[Key, Leave] = {}
    free = here = budget - sum(one.charge for one in every)
    blocked: list[Tenant] = []
    for one in _waiting(every):
        if one.key in refused:
            continue
        extra = one.needs - one.holds
        if extra > free and one.waits_since:
            staying = [other for other in every if other is not one and other.key not in leaving]
            found, freed = _room(one, staying, missing=extra - free, now=now)
            leaving |= found
            free += freed
        # What others still hold cannot be used yet.
        if extra <= min(free, here):
            placed.add(one.key)
            here -= extra
        elif one.waits_since:
            blocked.append(one)
        # Reserved in any case, or small models would overtake a large one for ever.
        free -= extra
    return Placement(frozenset(placed - leaving.keys()), leaving, refused, _next_turn(every, blocked, now))


def _shortage(one: Tenant, every: tuple[Tenant, ...], *, budget: int) -> Shortage | None:
    """Return the shortage if a model would not fit even with every unpinned model unloaded; None: it would, or does."""
    if one.placed_at:
        return None
    available = budget - sum(other.charge for other in every if other.ordered and other.placed_at and other is not one)
    return Shortage(one.needs, max(0, available)) if one.needs > available else None


def _waiting(every: tuple[Tenant, ...]) -> list[Tenant]:
    """Return the models that are not in memory: those that are waited for first, the longest first."""
    out = [one for one in every if not one.placed_at]
    return sorted(out, key=lambda one: (one.waits_since.timestamp() if one.waits_since else math.inf, one.key))


def _room(one: Tenant, others: list[Tenant], *, missing: int, now: datetime) -> tuple[dict[Key, Leave], int]:
    """Return who makes room for a model, and how many bytes that frees; nobody if it would not suffice."""
    leaving: dict[Key, Leave] = {}
    freed = 0
    for other, to, frees in _offers(others, now):
        if freed >= missing:
            break
        leaving[other.key] = Leave(to, one.key)
        freed += frees
    return (leaving, freed) if freed >= missing else ({}, 0)


def _offers(others: list[Tenant], now: datetime) -> Iterator[tuple[Tenant, State, int]]:
    """Yield whose memory can be had, in the order in which it is taken: models first, then their servers."""
    movable = [other for other in others if other.holds and not other.ordered and not other.waits_since]
    idle = sorted((other for other in movable if not other.needed), key=_idle_order)
    working = sorted((other for other in movable if other.needed and _turn_is_over(other, now)), key=_placed_order)
    for group in (idle, working):
        for other in group:
            if other.charge > SERVER_BYTES:
                yield other, State.UNLOADED, other.charge - SERVER_BYTES
        for other in group:
            yield other, State.ZERO, min(other.charge, SERVER_BYTES)


def _idle_order(tenant: Tenant) -> float:
    return tenant.idle_since.timestamp() if tenant.idle_since else 0.0


def _placed_order(tenant: Tenant) -> float:
    return tenant.placed_at.timestamp() if tenant.placed_at else 0.0


def _turn_is_over(tenant: Tenant, now: datetime) -> bool:
    return tenant.placed_at is not None and tenant.placed_at + TURN <= now


def _next_turn(every: tuple[Tenant, ...], blocked: list[Tenant], now: datetime) -> datetime | None:
    ends = [one.placed_at + TURN for one in every if one.placed_at] if blocked else []
    return min((end for end in ends if end > now), default=None)
