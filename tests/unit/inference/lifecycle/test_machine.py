"""The lifecycle's rules, each by name, and any interleaving of them."""

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
    GiveBack,
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
from whisper_inference.model_control import Depth, State

POLICY = Policy(unload_after=60)


@dataclass
class Story:
    """Feeds events to the machine and keeps what it answers."""

    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    now: float = 0.0
    policy: Policy = POLICY
    effects: list[Effect] = field(default_factory=list)

    def then(self, *events: Event) -> Story:
        for event in events:
            self.lifecycle, self.effects[len(self.effects) :] = step(
                self.lifecycle, event, now=self.now, policy=self.policy
            )
        return self

    def after(self, seconds: float) -> Story:
        self.now += seconds
        return self.then(Tick())

    @property
    def state(self) -> State:
        return self.lifecycle.state


def loaded() -> Story:
    story = Story().then(Load(1, "manual"), Loaded())
    story.effects.clear()
    return story


def test_a_first_request_starts_exactly_one_load_that_later_ones_join() -> None:
    story = Story().then(Expect(1), Expect(2), Acquire(3), Load(4, "manual"))
    assert story.effects == [StartLoad("demand")]
    story.then(Loaded())
    assert story.effects[1:] == [Settle(4, Outcome.LOADED), Grant(3)]


def test_loading_what_is_loaded_succeeds() -> None:
    assert loaded().then(Load(2, "manual")).effects == [Settle(2, Outcome.ALREADY_LOADED)]


def test_unloading_what_is_not_loaded_succeeds() -> None:
    assert Story().then(Unload(1, Depth.COLD, "manual")).effects == [Settle(1, Outcome.NOT_LOADED)]


def test_an_unload_waits_for_the_running_job_and_queued_work_reloads_the_model() -> None:
    story = loaded().then(Acquire(2), Unload(3, Depth.COLD, "manual"), Acquire(4))
    assert story.effects == [Grant(2)]
    story.then(GiveBack(2))
    assert story.effects[1:] == [StartRelease(Depth.COLD, "manual")]
    story.then(Released(Depth.COLD))
    assert story.effects[2:] == [Settle(3, Outcome.UNLOADED), StartLoad("demand")]


def test_a_forced_unload_does_not_wait_and_the_next_job_gets_the_worker_only_after_the_first_let_go() -> None:
    story = loaded().then(Acquire(2), Acquire(3), Unload(4, Depth.WARM, "manual", force=True))
    assert story.effects[-1] == StartRelease(Depth.WARM, "manual")
    story.then(Released(Depth.WARM), Loaded())
    assert Grant(3) not in story.effects
    assert Grant(3) in story.then(GiveBack(2)).effects


def test_an_unload_during_a_load_takes_it_back() -> None:
    story = Story().then(Load(1, "manual"), Unload(2, Depth.COLD, "manual"))
    assert story.effects[1:] == [Settle(1, Outcome.SUPERSEDED), StartRelease(Depth.COLD, "manual")]
    story.then(Loaded())
    assert story.state is State.UNLOADING
    story.then(Released(Depth.COLD))
    assert story.effects[-1] == Settle(2, Outcome.UNLOADED)
    assert story.state is State.UNLOADED


def test_a_load_takes_the_place_of_an_unload_that_still_waits() -> None:
    story = loaded().then(Acquire(2), Unload(3, Depth.COLD, "manual"), Load(4, "manual"), GiveBack(2))
    assert story.effects == [Grant(2), Settle(3, Outcome.SUPERSEDED), Settle(4, Outcome.ALREADY_LOADED)]
    assert story.state is State.LOADED


def test_a_second_unload_joins_the_first_at_the_greater_depth() -> None:
    story = loaded().then(Unload(2, Depth.WARM, "manual"), Unload(3, Depth.COLD, "manual"), Released(Depth.WARM))
    assert story.effects == [StartRelease(Depth.WARM, "manual"), StartRelease(Depth.COLD, "manual")]
    story.then(Released(Depth.COLD))
    assert story.effects[2:] == [Settle(2, Outcome.UNLOADED), Settle(3, Outcome.UNLOADED)]


def test_idleness_unloads_warm_and_as_long_again_later_cold() -> None:
    story = loaded().after(59.9)
    assert story.effects == []
    story.after(0.1).then(Released(Depth.WARM))
    assert story.effects == [StartRelease(Depth.WARM, "idle")]
    assert next_deadline(story.lifecycle, POLICY) == story.now + 60
    story.after(60)
    assert story.effects[1:] == [StartRelease(Depth.COLD, "idle")]


def test_idleness_counts_from_the_end_of_a_job_not_from_its_start() -> None:
    story = loaded().then(Acquire(2)).after(1000).then(GiveBack(2)).after(59)
    assert story.state is State.LOADED
    assert story.after(1).state is State.UNLOADING


@pytest.mark.parametrize("event", [Acquire(2), Expect(2)], ids=["a running job", "an upload under way"])
def test_nothing_is_idle_during(event: Event) -> None:
    assert loaded().then(event).after(10_000).state is State.LOADED


def test_an_upload_that_came_to_nothing_is_no_work() -> None:
    story = loaded().after(50).then(Expect(2)).after(5).then(Withdraw(2))
    assert next_deadline(story.lifecycle, POLICY) == 60
    assert story.after(5).state is State.UNLOADING


def test_an_idle_time_that_ended_during_an_upload_is_over_when_that_comes_to_nothing() -> None:
    assert loaded().then(Expect(2)).after(100).then(Withdraw(2)).effects == [StartRelease(Depth.WARM, "idle")]


def unloaded(depth: Depth) -> Story:
    story = loaded().then(Unload(2, depth, "manual"), Released(depth))
    story.effects.clear()
    return story


@pytest.mark.parametrize("until_then", [(), (Loaded(),)], ids=["while it loads", "when it has loaded"])
@pytest.mark.parametrize("depth", Depth)
def test_a_model_that_uploads_woke_for_nothing_goes_back_to_how_it_was(depth: Depth, until_then: tuple[Event]) -> None:
    story = unloaded(depth).after(10).then(Expect(3), Expect(4), *until_then, Withdraw(3))
    assert story.effects == [StartLoad("demand")]
    story.then(Withdraw(4))
    assert story.effects[1:] == [StartRelease(depth, "withdrawn")]
    story.after(10).then(Released(depth))
    assert (story.state, story.lifecycle.depth) == (State.UNLOADED, depth)


def test_the_time_of_a_rest_that_uploads_broke_for_nothing_goes_on() -> None:
    story = unloaded(Depth.WARM)
    deadline = next_deadline(story.lifecycle, POLICY)
    for ticket in range(10, 15):
        story.after(9).then(Expect(ticket), Loaded(), Withdraw(ticket), Released(Depth.WARM))
        assert next_deadline(story.lifecycle, POLICY) == deadline


@pytest.mark.parametrize(
    "claim",
    [Load(4, "manual"), Acquire(4), GiveBack(9)],
    ids=["a call of load", "a job that waits", "another upload that became a job"],
)
def test_a_model_that_others_want_too_stays_when_an_upload_comes_to_nothing(claim: Event) -> None:
    story = unloaded(Depth.COLD).then(Expect(3), Expect(9), claim, Loaded(), Withdraw(3), Withdraw(9))
    assert story.state is State.LOADED


def test_a_worker_that_dies_during_an_upload_does_not_change_what_its_end_leads_back_to() -> None:
    story = unloaded(Depth.COLD).then(Expect(3), Loaded(), WorkerDied(Depth.WARM), Loaded(), Withdraw(3))
    assert story.effects[-1] == StartRelease(Depth.COLD, "withdrawn")


def test_work_that_comes_while_the_model_goes_back_to_rest_loads_it_again() -> None:
    story = unloaded(Depth.WARM).then(Expect(3), Withdraw(3), Acquire(4)).after(5).then(Released(Depth.WARM))
    assert story.effects[-1] == StartLoad("demand")
    assert Grant(4) in story.then(Loaded()).effects


def test_without_a_limit_idleness_never_unloads() -> None:
    story = loaded()
    story.policy = Policy(unload_after=None)
    assert story.after(1e9).state is State.LOADED
    assert next_deadline(story.lifecycle, story.policy) is None


def test_a_failed_load_is_tried_again_after_a_doubling_back_off_while_work_waits() -> None:
    story = Story().then(Acquire(1))
    waits = []
    for _ in range(8):
        story.then(LoadFailed(Depth.WARM))
        deadline = next_deadline(story.lifecycle, POLICY)
        assert deadline is not None
        waits.append(deadline - story.now)
        story.after(waits[-1])
        assert story.state is State.LOADING
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_explicit_load_does_not_wait_for_the_back_off() -> None:
    story = Story().then(Load(1, "startup"), LoadFailed(Depth.COLD), Load(2, "manual"))
    assert story.effects == [StartLoad("startup"), Settle(1, Outcome.LOAD_FAILED), StartLoad("manual")]


def test_a_dead_worker_is_replaced_for_the_work_that_waits() -> None:
    story = loaded().then(Acquire(2), Acquire(3), WorkerDied(Depth.WARM))
    assert story.effects == [Grant(2), StartLoad("demand")]
    story.then(GiveBack(2), Loaded())
    assert story.effects[2:] == [Grant(3)]


def test_a_dead_worker_without_work_stays_away() -> None:
    story = loaded().then(WorkerDied(Depth.COLD))
    assert story.effects == []
    assert (story.state, story.lifecycle.depth) == (State.UNLOADED, Depth.COLD)


def test_a_lost_zygote_makes_an_unloaded_model_cold() -> None:
    story = loaded().then(Unload(2, Depth.WARM, "manual"), Released(Depth.WARM), ZygoteDied())
    assert story.lifecycle.depth is Depth.COLD


class AnyInterleaving(RuleBasedStateMachine):
    """Plays the processes faithfully (one answer to each effect) and everything else at random."""

    waiting_jobs: Bundle[int] = Bundle("waiting_jobs")
    uploads: Bundle[int] = Bundle("uploads")

    @initialize()
    def begin(self) -> None:
        self.story = Story()
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
        self.story.then(event)
        for effect in self.story.effects[self.seen :]:
            self.note(effect)
        self.seen = len(self.story.effects)

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
        self.tell(GiveBack(ticket))

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
        self.tell(GiveBack(ticket))
        assert self.story.lifecycle.active_at == self.story.now

    @rule(ticket=consumes(uploads))
    def upload_comes_to_nothing(self, ticket: int) -> None:
        self.uploading.discard(ticket)
        active_at = self.story.lifecycle.active_at
        self.tell(Withdraw(ticket))
        assert self.story.lifecycle.active_at == active_at

    @rule(seconds=st.sampled_from([0.5, 1, 30, 60, 120]))
    def time_passes(self, seconds: float) -> None:
        self.story.now += seconds
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
        state = self.story.state
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
        """Nobody hangs: an effect is under way, a job runs, or a deadline is set."""
        commands_wait = bool(self.asked - self.settled)
        jobs_wait = bool(self.jobs - set(self.granted))
        going_on = self.loading or self.releasing or bool(self.granted)
        deadline = next_deadline(self.story.lifecycle, POLICY) is not None
        assert going_on or not commands_wait
        assert going_on or deadline or not jobs_wait

    def teardown(self) -> None:
        """Left alone, everything comes to an end: all callers answered, all jobs run."""
        if not hasattr(self, "story"):
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
