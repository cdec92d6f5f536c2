"""Which models may be in memory at the same time, and who makes room."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_inference.fleet.local.placement import SERVER_BYTES, TURN, Leave, Placement, Shortage, Tenant, place
from whispermodel.key import Key
from whispermodel.states import State

GIB = 2**30
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
BUDGET = 3 * GIB


def key(name: str) -> Key:
    return Key("default", name)


def resting(name: str, needs: int = 2 * GIB) -> Tenant:
    return Tenant(key(name), holds=0, needs=needs)


def waiting(name: str, needs: int = 2 * GIB, *, seconds: float = 1) -> Tenant:
    return replace(resting(name, needs), waits_since=NOW - timedelta(seconds=seconds), needed=True)


def loaded(name: str, needs: int = 2 * GIB, *, idle: float = 5, placed: float = 600) -> Tenant:
    since, placed_at = NOW - timedelta(seconds=idle), NOW - timedelta(seconds=placed)
    return Tenant(key(name), holds=needs, needs=needs, placed_at=placed_at, idle_since=since)


def working(name: str, needs: int = 2 * GIB, *, placed: float = 600) -> Tenant:
    return replace(loaded(name, needs, placed=placed), needed=True)


def ordered(name: str, needs: int = 2 * GIB) -> Tenant:
    return replace(loaded(name, needs), ordered=True)


def placed(*tenants: Tenant, budget: int = BUDGET) -> Placement:
    return place(tenants, budget=budget, now=NOW)


def leaving(placement: Placement) -> dict[str, tuple[State, str]]:
    return {left.name: (leave.to, leave.room_for.name) for left, leave in placement.leaving.items()}


def test_models_that_fit_are_placed_side_by_side() -> None:
    seen = placed(waiting("a", GIB), waiting("b", GIB), loaded("c", GIB))
    assert seen.placed == {key("a"), key("b"), key("c")}
    assert seen.leaving == {}


def test_idle_model_makes_room_and_the_waiting_one_is_placed_once_it_has_left() -> None:
    seen = placed(waiting("a"), loaded("b"))
    assert leaving(seen) == {"b": (State.UNLOADED, "a")}
    assert seen.placed == frozenset()
    left = replace(resting("b"), holds=SERVER_BYTES)
    assert key("a") in placed(waiting("a"), left).placed


def test_longest_idle_goes_first_and_no_more_than_needed() -> None:
    tenants = [loaded("b", GIB, idle=60), loaded("c", GIB, idle=600), loaded("d", GIB, idle=6)]
    assert set(leaving(placed(waiting("a", GIB // 2), *tenants))) == {"c"}


def test_server_ends_as_well_if_unloading_is_not_enough() -> None:
    seen = placed(waiting("a", BUDGET), loaded("b"))
    assert leaving(seen) == {"b": (State.ZERO, "a")}


def test_warm_leftovers_of_an_unloaded_model_make_room() -> None:
    warm = replace(resting("b"), holds=GIB)
    assert leaving(placed(waiting("a", BUDGET - SERVER_BYTES), warm)) == {"b": (State.UNLOADED, "a")}


def test_model_kept_on_purpose_never_makes_room_and_the_other_is_refused_with_both_figures() -> None:
    seen = placed(waiting("a"), ordered("b"))
    assert seen.leaving == {}
    assert seen.refused == {key("a"): Shortage(needed=2 * GIB, available=GIB)}
    assert placed(resting("a"), ordered("b")).refused == seen.refused


def test_model_larger_than_the_budget_is_refused() -> None:
    assert placed(waiting("a", 4 * GIB)).refused == {key("a"): Shortage(needed=4 * GIB, available=BUDGET)}


def test_model_with_work_keeps_its_place_for_its_turn() -> None:
    seen = placed(waiting("a"), working("b", placed=10))
    assert seen.leaving == {}
    assert seen.check_at == NOW + TURN - timedelta(seconds=10)


def test_model_with_work_makes_room_when_its_turn_is_over() -> None:
    seen = placed(waiting("a"), working("b", placed=TURN.total_seconds()))
    assert leaving(seen) == {"b": (State.UNLOADED, "a")}


def test_model_with_work_keeps_its_place_while_nobody_waits() -> None:
    seen = placed(working("b"), resting("a"))
    assert seen.placed >= {key("b")}
    assert seen.check_at is None


def test_idle_models_make_room_before_those_with_work() -> None:
    assert set(leaving(placed(waiting("a", GIB), working("b", GIB), loaded("c", GIB), ordered("d", GIB)))) == {"c"}


def test_small_model_does_not_overtake_a_large_one_that_waits_longer() -> None:
    seen = placed(waiting("large", 2 * GIB, seconds=9), waiting("small", GIB // 2), working("b", 2 * GIB, placed=1))
    assert key("small") not in seen.placed


def test_nobody_leaves_in_vain() -> None:
    tenants = [loaded("b", GIB // 2), working("c", 2 * GIB, placed=1)]
    assert placed(waiting("a"), *tenants).leaving == {}


def test_recently_used_model_after_a_restart_makes_nobody_leave() -> None:
    assert placed(resting("a"), loaded("b")).leaving == {}


KINDS = {
    "resting": lambda name, needs, age: resting(name, needs),
    "waiting": lambda name, needs, age: waiting(name, needs, seconds=age),
    "loaded": lambda name, needs, age: loaded(name, needs, idle=age),
    "working": lambda name, needs, age: working(name, needs, placed=age),
    "ordered": lambda name, needs, age: ordered(name, needs),
}
KIND_NEEDS_AND_AGE = st.tuples(
    st.sampled_from(sorted(KINDS)), st.integers(2 * SERVER_BYTES, 2 * GIB), st.integers(0, 300)
)
TENANTS = st.lists(KIND_NEEDS_AND_AGE, max_size=6).map(
    lambda given: [KINDS[kind](f"m{number}", needs, age) for number, (kind, needs, age) in enumerate(given)]
)


@given(TENANTS)
def test_new_places_are_within_the_budget_and_nobody_both_stays_and_leaves(tenants: list[Tenant]) -> None:
    seen = placed(*tenants)
    held = sum(one.charge for one in tenants)
    new = sum(one.needs - one.holds for one in tenants if one.key in seen.placed and not one.placed_at)
    assert not new or held + new <= BUDGET
    assert not seen.placed & seen.leaving.keys()
    assert not {one.key for one in tenants if one.ordered} & seen.leaving.keys()


def simulated(tenants: list[Tenant], *, seconds: int) -> list[str]:
    """Let models with endless work take turns; return who is in memory in each second."""
    shown, now = [], NOW
    for _ in range(seconds):
        placement = place(tenants, budget=BUDGET, now=now)
        tenants = [_moved(one, placement, now) for one in tenants]
        shown.append("".join(one.key.name for one in tenants if one.placed_at))
        now += timedelta(seconds=1)
    return shown


def _moved(one: Tenant, placement: Placement, now: datetime) -> Tenant:
    if isinstance(placement.leaving.get(one.key), Leave):
        return replace(one, holds=SERVER_BYTES, placed_at=None, waits_since=now)
    if one.key in placement.placed and not one.placed_at:
        return replace(one, holds=one.needs, placed_at=now, waits_since=None)
    return one


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_models_that_do_not_fit_together_take_turns(names: str) -> None:
    shown = simulated([waiting(name, seconds=10 - order) for order, name in enumerate(names)], seconds=600)
    swaps = [name for before, name in zip(["", *shown], shown, strict=False) if name and name != before]
    assert swaps[: len(names) * 2] == list(names) * 2
    assert 8 <= len(swaps) <= 10
