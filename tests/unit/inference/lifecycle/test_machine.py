"""The lifecycle's rules one by one, and arbitrary interleavings of events."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from testing.depth import depth
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
    Tick,
    Unload,
    Withdraw,
    WorkerDied,
    ZygoteDied,
)
from whisper_inference.lifecycle.transitions import next_deadline, step
from whispermodel.states import Depth, State

POLICY = Policy(unload_after=60)


@dataclass
class Driver:
    """Feeds events to the state machine and keeps its effects."""

    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    now: float = 0.0
    policy: Policy = POLICY
    effects: list[Effect] = field(default_factory=list)

    def then(self, *events: Event) -> Driver:
        for event in events:
            self.lifecycle, self.effects[len(self.effects) :] = step(
                self.lifecycle, event, now=self.now, policy=self.policy
            )
        return self

    def after(self, seconds: float) -> Driver:
        self.now += seconds
        return self.then(Tick())

    @property
    def state(self) -> State:
        return self.lifecycle.state


def loaded() -> Driver:
    driver = Driver().then(Load(1, "manual"), Loaded())
    driver.effects.clear()
    return driver


def test_concurrent_requests_join_one_load() -> None:
    driver = Driver().then(Expect(1), Expect(2), Acquire(3), Load(4, "manual"))
    assert driver.effects == [StartLoad("demand")]
    driver.then(Loaded())
    assert driver.effects[1:] == [Settle(4, Outcome.LOADED), Grant(3)]


def test_load_is_idempotent() -> None:
    assert loaded().then(Load(2, "manual")).effects == [Settle(2, Outcome.ALREADY_LOADED)]


def test_unload_is_idempotent() -> None:
    assert Driver().then(Unload(1, Depth.COLD, "manual")).effects == [Settle(1, Outcome.NOT_LOADED)]


def test_unload_waits_for_the_running_job_and_queued_work_reloads() -> None:
    driver = loaded().then(Acquire(2), Unload(3, Depth.COLD, "manual"), Acquire(4))
    assert driver.effects == [Grant(2)]
    driver.then(Finish(2))
    assert driver.effects[1:] == [StartRelease(Depth.COLD, "manual")]
    driver.then(Released(Depth.COLD))
    assert driver.effects[2:] == [Settle(3, Outcome.UNLOADED), StartLoad("demand")]


def test_forced_unload_does_not_wait_for_the_running_job() -> None:
    driver = loaded().then(Acquire(2), Acquire(3), Unload(4, Depth.WARM, "manual", force=True))
    assert driver.effects[-1] == StartRelease(Depth.WARM, "manual")
    driver.then(Released(Depth.WARM), Loaded())
    assert Grant(3) not in driver.effects
    assert Grant(3) in driver.then(Finish(2)).effects


def test_unload_cancels_a_load() -> None:
    driver = Driver().then(Load(1, "manual"), Unload(2, Depth.COLD, "manual"))
    assert driver.effects[1:] == [Settle(1, Outcome.SUPERSEDED), StartRelease(Depth.COLD, "manual")]
    driver.then(Loaded())
    assert driver.state is State.UNLOADING
    driver.then(Released(Depth.COLD))
    assert driver.effects[-1] == Settle(2, Outcome.UNLOADED)
    assert driver.state is State.UNLOADED


def test_load_supersedes_a_pending_unload() -> None:
    driver = loaded().then(Acquire(2), Unload(3, Depth.COLD, "manual"), Load(4, "manual"), Finish(2))
    assert driver.effects == [Grant(2), Settle(3, Outcome.SUPERSEDED), Settle(4, Outcome.ALREADY_LOADED)]
    assert driver.state is State.LOADED


def test_concurrent_unloads_use_the_greater_depth() -> None:
    driver = loaded().then(Unload(2, Depth.WARM, "manual"), Unload(3, Depth.COLD, "manual"), Released(Depth.WARM))
    assert driver.effects == [StartRelease(Depth.WARM, "manual"), StartRelease(Depth.COLD, "manual")]
    driver.then(Released(Depth.COLD))
    assert driver.effects[2:] == [Settle(2, Outcome.UNLOADED), Settle(3, Outcome.UNLOADED)]


def test_idle_model_unloads_warm_then_cold() -> None:
    driver = loaded().after(59.9)
    assert driver.effects == []
    driver.after(0.1).then(Released(Depth.WARM))
    assert driver.effects == [StartRelease(Depth.WARM, "idle")]
    assert next_deadline(driver.lifecycle, POLICY) == driver.now + 60
    driver.after(60)
    assert driver.effects[1:] == [StartRelease(Depth.COLD, "idle")]


def test_idle_time_starts_at_the_end_of_a_job() -> None:
    driver = loaded().then(Acquire(2)).after(1000).then(Finish(2)).after(59)
    assert driver.state is State.LOADED
    assert driver.after(1).state is State.UNLOADING


@pytest.mark.parametrize("event", [Acquire(2), Expect(2)], ids=["a running job", "an upload in progress"])
def test_work_in_progress_is_not_idle(event: Event) -> None:
    assert loaded().then(event).after(10_000).state is State.LOADED


def test_failed_upload_is_not_work() -> None:
    driver = loaded().after(50).then(Expect(2)).after(5).then(Withdraw(2))
    assert next_deadline(driver.lifecycle, POLICY) == 60
    assert driver.after(5).state is State.UNLOADING


def test_idle_time_may_end_during_a_failed_upload() -> None:
    assert loaded().then(Expect(2)).after(100).then(Withdraw(2)).effects == [StartRelease(Depth.WARM, "idle")]


def unloaded(depth: Depth) -> Driver:
    driver = loaded().then(Unload(2, depth, "manual"), Released(depth))
    driver.effects.clear()
    return driver


@pytest.mark.parametrize("until_then", [(), (Loaded(),)], ids=["while it loads", "when it has loaded"])
@pytest.mark.parametrize("depth", Depth)
def test_model_loaded_for_failed_uploads_is_unloaded_again(depth: Depth, until_then: tuple[Event]) -> None:
    driver = unloaded(depth).after(10).then(Expect(3), Expect(4), *until_then, Withdraw(3))
    assert driver.effects == [StartLoad("demand")]
    driver.then(Withdraw(4))
    assert driver.effects[1:] == [StartRelease(depth, "withdrawn")]
    driver.after(10).then(Released(depth))
    assert (driver.state, driver.lifecycle.depth) == (State.UNLOADED, depth)


def test_failed_uploads_do_not_reset_the_idle_time() -> None:
    driver = unloaded(Depth.WARM)
    deadline = next_deadline(driver.lifecycle, POLICY)
    for ticket in range(10, 15):
        driver.after(9).then(Expect(ticket), Loaded(), Withdraw(ticket), Released(Depth.WARM))
        assert next_deadline(driver.lifecycle, POLICY) == deadline


@pytest.mark.parametrize(
    "claim",
    [Load(4, "manual"), Acquire(4), Finish(9)],
    ids=["a call of load", "a job that waits", "another upload that became a job"],
)
def test_model_stays_loaded_for_others_after_a_failed_upload(claim: Event) -> None:
    driver = unloaded(Depth.COLD).then(Expect(3), Expect(9), claim, Loaded(), Withdraw(3), Withdraw(9))
    assert driver.state is State.LOADED


def test_worker_death_during_an_upload_keeps_the_former_state() -> None:
    driver = unloaded(Depth.COLD).then(Expect(3), Loaded(), WorkerDied(Depth.WARM), Loaded(), Withdraw(3))
    assert driver.effects[-1] == StartRelease(Depth.COLD, "withdrawn")


def test_work_during_that_unload_reloads_the_model() -> None:
    driver = unloaded(Depth.WARM).then(Expect(3), Withdraw(3), Acquire(4)).after(5).then(Released(Depth.WARM))
    assert driver.effects[-1] == StartLoad("demand")
    assert Grant(4) in driver.then(Loaded()).effects


def test_idle_model_stays_loaded_without_a_limit() -> None:
    driver = loaded()
    driver.policy = Policy(unload_after=None)
    assert driver.after(1e9).state is State.LOADED
    assert next_deadline(driver.lifecycle, driver.policy) is None


def test_failed_load_is_retried_with_back_off_while_work_waits() -> None:
    driver = Driver().then(Acquire(1))
    waits = []
    for _ in range(8):
        driver.then(LoadFailed(Depth.WARM))
        deadline = next_deadline(driver.lifecycle, POLICY)
        assert deadline is not None
        waits.append(deadline - driver.now)
        driver.after(waits[-1])
        assert driver.state is State.LOADING
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_explicit_load_ignores_the_back_off() -> None:
    driver = Driver().then(Load(1, "startup"), LoadFailed(Depth.COLD), Load(2, "manual"))
    assert driver.effects == [StartLoad("startup"), Settle(1, Outcome.LOAD_FAILED), StartLoad("manual")]


def test_dead_worker_is_replaced_while_work_waits() -> None:
    driver = loaded().then(Acquire(2), Acquire(3), WorkerDied(Depth.WARM))
    assert driver.effects == [Grant(2), StartLoad("demand")]
    driver.then(Finish(2), Loaded())
    assert driver.effects[2:] == [Grant(3)]


def test_dead_worker_is_not_replaced_without_work() -> None:
    driver = loaded().then(WorkerDied(Depth.COLD))
    assert driver.effects == []
    assert (driver.state, driver.lifecycle.depth) == (State.UNLOADED, Depth.COLD)


def test_lost_zygote_makes_an_unloaded_model_cold() -> None:
    driver = loaded().then(Unload(2, Depth.WARM, "manual"), Released(Depth.WARM), ZygoteDied())
    assert driver.lifecycle.depth is Depth.COLD


class AnyInterleaving(RuleBasedStateMachine):
    """Plays the processes faithfully (one answer to each effect) and everything else at random."""

    waiting_jobs: Bundle[int] = Bundle("waiting_jobs")
    uploads: Bundle[int] = Bundle("uploads")

    @initialize()
    def begin(self) -> None:
        self.driver = Driver()
        self.tickets = 0
        self.loading = self.releasing = self.zygote = self.worker = False
        self.asked: set[int] = set()
        self.settled: set[int] = set()
        self.granted: list[int] = []
        self.jobs: set[int] = set()
        self.uploading: set[int] = set()
        self.claimed = False
        self.seen = 0

    def tell(self, event: Event) -> None:
        self.driver.then(event)
        for effect in self.driver.effects[self.seen :]:
            self.note(effect)
        self.seen = len(self.driver.effects)

    def note(self, effect: Effect) -> None:
        match effect:
            case StartLoad():
                assert not self.loading, "two loads at once"
                assert not self.releasing, "a load during a release"
                assert not self.worker, "two workers"
                self.loading = True
                self.claimed = bool(self.asked - self.settled or self.jobs - set(self.granted))
            case StartRelease(depth=depth):
                assert not self.releasing, "two releases at once"
                self.releasing, self.depth = True, depth
            case Grant(ticket=ticket):
                assert self.worker, "a job without a worker"
                assert not self.granted, "two jobs on one worker"
                self.granted.append(ticket)
            case Settle(ticket=ticket):
                assert ticket not in self.settled, "two answers"
                self.settled.add(ticket)

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    @rule()
    def load(self) -> None:
        ticket = self.ticket()
        self.asked.add(ticket)
        self.claimed = True
        self.tell(Load(ticket, "manual"))

    @rule(depth=st.sampled_from(Depth), force=st.booleans())
    def unload(self, depth: Depth, force: bool) -> None:
        ticket = self.ticket()
        self.asked.add(ticket)
        self.tell(Unload(ticket, depth, "manual", force))

    @rule(target=waiting_jobs)
    def job(self) -> int:
        ticket = self.ticket()
        self.jobs.add(ticket)
        self.claimed = True
        self.tell(Acquire(ticket))
        return ticket

    @rule(ticket=consumes(waiting_jobs))
    def job_ends_or_is_cancelled(self, ticket: int) -> None:
        self.jobs.discard(ticket)
        if ticket in self.granted:
            self.granted.remove(ticket)
            self.claimed = True
        self.tell(Finish(ticket))

    @rule(target=uploads)
    def upload_begins(self) -> int:
        ticket = self.ticket()
        self.uploading.add(ticket)
        self.tell(Expect(ticket))
        return ticket

    @rule(ticket=consumes(uploads))
    def upload_becomes_a_job(self, ticket: int) -> None:
        self.uploading.discard(ticket)
        self.claimed = True
        self.tell(Finish(ticket))
        assert self.driver.lifecycle.active_at == self.driver.now

    @rule(ticket=consumes(uploads))
    def upload_comes_to_nothing(self, ticket: int) -> None:
        self.uploading.discard(ticket)
        active_at = self.driver.lifecycle.active_at
        self.tell(Withdraw(ticket))
        assert self.driver.lifecycle.active_at == active_at

    @rule(seconds=st.sampled_from([0.5, 1, 30, 60, 120]))
    def time_passes(self, seconds: float) -> None:
        self.driver.now += seconds
        self.tell(Tick())

    @precondition(lambda self: self.loading)
    @rule(succeeds=st.booleans())
    def load_ends(self, succeeds: bool) -> None:
        self.loading, self.zygote, self.worker = False, True, succeeds
        self.tell(Loaded() if succeeds else LoadFailed(Depth.WARM))

    @precondition(lambda self: self.releasing)
    @rule()
    def release_ends(self) -> None:
        # A release waits for the load that it took back.
        if self.loading:
            self.loading = False
            self.tell(LoadFailed(Depth.WARM))
        self.releasing = self.worker = False
        self.zygote = self.zygote and self.depth is Depth.WARM
        self.tell(Released(Depth.WARM if self.zygote else Depth.COLD))

    @precondition(lambda self: self.worker and not self.releasing)
    @rule(zygote_too=st.booleans())
    def worker_dies(self, zygote_too: bool) -> None:
        self.worker = False
        self.zygote = not zygote_too
        self.tell(WorkerDied(Depth.COLD if zygote_too else Depth.WARM))

    @invariant()
    def state_tells_the_truth(self) -> None:
        state = self.driver.state
        assert (state is State.LOADING) == (self.loading and not self.releasing)
        assert (state is State.UNLOADING) == self.releasing
        assert (state is State.LOADED) == (self.worker and not self.releasing)

    @invariant()
    def nothing_is_in_memory_that_only_refused_uploads_asked_for(self) -> None:
        if (self.loading or self.worker) and not self.releasing:
            # A job that a forced unload took the worker from counts: it comes back for another.
            assert self.claimed or self.uploading or self.granted

    @invariant()
    def whoever_waits_can_still_be_answered(self) -> None:
        """No caller hangs: an effect is in progress, a job runs, or a deadline is set."""
        commands_wait = bool(self.asked - self.settled)
        jobs_wait = bool(self.jobs - set(self.granted))
        going_on = self.loading or self.releasing or bool(self.granted)
        deadline = next_deadline(self.driver.lifecycle, POLICY) is not None
        assert going_on or not commands_wait
        assert going_on or deadline or not jobs_wait

    def teardown(self) -> None:
        """Without further events, all callers are answered and all jobs run."""
        if not hasattr(self, "driver"):
            return
        for _ in range(200):
            if self.releasing:
                self.release_ends()
            elif self.loading:
                self.load_ends(succeeds=True)
            elif self.granted:
                self.job_ends_or_is_cancelled(self.granted[0])
            else:
                self.time_passes(60)
        assert not self.asked - self.settled
        assert not self.jobs


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=depth(ci=100, nightly=1000), stateful_step_count=60, deadline=None)
