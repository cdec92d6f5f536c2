"""The lifecycle's rules, each by name, and any interleaving of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from whisper_inference.lifecycle.machine import (
    Acquire,
    Depth,
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
    State,
    Tick,
    Unload,
    WorkerDied,
    ZygoteDied,
    next_deadline,
    step,
)

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
        self.tell(Acquire(ticket))
        return ticket

    @rule(ticket=consumes(waiting_jobs))
    def job_ends_or_is_cancelled(self, ticket: int) -> None:
        self.jobs.discard(ticket)
        if ticket in self.granted:
            self.granted.remove(ticket)
        self.tell(GiveBack(ticket))

    @rule(target=uploads)
    def upload_begins(self) -> int:
        ticket = self.ticket()
        self.tell(Expect(ticket))
        return ticket

    @rule(ticket=consumes(uploads))
    def upload_ends(self, ticket: int) -> None:
        self.tell(GiveBack(ticket))

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
TestAnyInterleaving.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
