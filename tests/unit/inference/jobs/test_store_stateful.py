"""Any interleaving of clients, executors, crashes and sweeps: no job is lost, shown to others, or given two results."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from testing.depth import depth
from whisper_inference.errors import IdempotencyConflict, JobNotFound, NotAudio
from whisper_inference.jobs.database import close, open_engine, sqlite_url
from whisper_inference.jobs.job import MAX_ATTEMPTS, Added, Job, Section, SpooledAudio, StaleAttempt, Status
from whisper_inference.jobs.store import JobStore
from whisper_inference.transcripts.transcript import Options, Resume, Segment

DAY = timedelta(days=1)
OWNERS = ("ana", "rui")
T = TypeVar("T")


@dataclass
class Expected:
    """What the reference model knows about a job."""

    number: int
    owner: str
    content: str
    key: str | None
    status: Status = Status.QUEUED
    attempts: int = 0
    token: str | None = None
    texts: list[str] = field(default_factory=list[str])
    ended: datetime | None = None
    audio_held: bool = True

    def came_under(self, owner: str, key: str) -> bool:
        return (self.owner, self.key) == (owner, key)


class JobStoreMachine(RuleBasedStateMachine):
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.numbers = itertools.count(1)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.expected: dict[str, Expected] = {}
        self.open()

    def open(self) -> None:
        self.engine = open_engine(sqlite_url(self.folder))
        self.store = JobStore(self.engine, clock=lambda: self.now, new_token=lambda: f"t{next(self.numbers)}")
        self.run(self.store.prepare())

    def run(self, operation: Coroutine[object, object, T]) -> T:
        return self.runner.run(operation)

    def teardown(self) -> None:
        self.run(close(self.engine))
        self.runner.close()
        shutil.rmtree(self.folder)

    def running(self, token: str) -> Expected | None:
        return next((job for job in self.expected.values() if job.token == token), None)

    def attempt(self, token: str, operation: Coroutine[object, object, object]) -> Expected | None:
        """Run an operation of an attempt; None when the store rejects it, as it must for a stale attempt only."""
        job = self.running(token)
        try:
            self.run(operation)
        except StaleAttempt:
            assert job is None
        else:
            assert job is not None
        return job

    def end(self, job: Expected, status: Status) -> None:
        job.status, job.token, job.ended = status, None, self.now

    def lose(self, job: Expected) -> None:
        if job.attempts >= MAX_ATTEMPTS:
            self.end(job, Status.FAILED)
        else:
            job.status, job.token = Status.QUEUED, None

    @rule(owner=st.sampled_from(OWNERS), content=st.sampled_from("xy"), key=st.sampled_from([None, "k1", "k2"]))
    def add(self, owner: str, content: str, key: str | None) -> None:
        number = next(self.numbers)
        audio = SpooledAudio(f"audio/{number}", 10, content)
        job = Job(f"j{number}", Options(), "a.flac", audio, owner, self.now, idempotency_key=key)
        before = next((name for name, other in self.expected.items() if key and other.came_under(owner, key)), None)
        try:
            outcome = self.run(self.store.add(job))
        except IdempotencyConflict:
            assert before is not None
            assert self.expected[before].content != content
            return
        assert isinstance(outcome, Added) == (before is None)
        assert outcome.job.id == (before or job.id)
        if before is None:
            self.expected[job.id] = Expected(number, owner, content, key)

    @rule(target=tokens)
    def lease(self) -> object:
        lease = self.run(self.store.lease())
        queued = [name for name, job in self.expected.items() if job.status is Status.QUEUED]
        if lease is None:
            assert not queued
            return multiple()
        assert lease.job.id == min(queued, key=lambda name: self.expected[name].number)
        job = self.expected[lease.job.id]
        assert (lease.resume.next_segment_id if lease.resume else 0) == len(job.texts)
        job.status, job.attempts, job.token = Status.RUNNING, job.attempts + 1, lease.token
        assert lease.job.attempts == job.attempts
        return lease.token

    @rule(token=tokens, text=st.sampled_from([" a", " b", ""]))
    def append(self, token: str, text: str) -> None:
        segment = Segment(0, 0, 0.0, 1.0, text, (1,), 0.0, 0.0, 1.0, 0.0)
        section = Section((segment,), resume=Resume(16_000, "en", text), progress=0.5)
        job = self.attempt(token, self.store.append_section(token, section))
        if job is not None:
            job.texts.append(text)

    @rule(token=tokens)
    def succeed(self, token: str) -> None:
        job = self.attempt(token, self.store.succeed(token, 1.0))
        if job is not None:
            self.end(job, Status.SUCCEEDED)

    @rule(token=tokens)
    def fail(self, token: str) -> None:
        job = self.attempt(token, self.store.fail(token, NotAudio(reason="noise")))
        if job is not None:
            self.end(job, Status.FAILED)

    @rule(token=tokens)
    def retry(self, token: str) -> None:
        job = self.attempt(token, self.store.retry(token, "killed"))
        if job is not None:
            self.lose(job)

    @rule(token=consumes(tokens))
    def release(self, token: str) -> None:
        job = self.attempt(token, self.store.release(token))
        if job is not None:
            job.status, job.token, job.attempts = Status.QUEUED, None, job.attempts - 1

    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        if not self.expected:
            return
        name = list(self.expected)[which % len(self.expected)]
        self.run(self.store.cancel(name))
        if not self.expected[name].status.final:
            self.end(self.expected[name], Status.CANCELLED)

    @rule()
    def crash(self) -> None:
        self.run(close(self.engine))
        self.open()
        self.run(self.store.recover("the server ended"))
        for job in self.expected.values():
            if job.status is Status.RUNNING:
                self.lose(job)
            job.audio_held = not job.status.final

    @rule(days=st.floats(0.1, 2))
    def sweep(self, days: float) -> None:
        self.now += days * DAY
        gone = {name: job for name, job in self.expected.items() if job.ended and job.ended <= self.now - DAY}
        swept = self.run(self.store.sweep(DAY))
        assert {audio.key for audio in swept} == {f"audio/{job.number}" for job in gone.values() if job.audio_held}
        for name in gone:
            del self.expected[name]

    @invariant()
    def every_job_is_where_it_should_be_with_what_it_should_have(self) -> None:
        stored = self.run(self.store.page(limit=1000)).jobs
        assert {job.id: (job.status, job.attempts) for job in stored} == {
            name: (job.status, job.attempts) for name, job in self.expected.items()
        }
        for name, job in self.expected.items():
            assert self.run(self.store.text(name)) == "".join(job.texts)
        owned = [job for job in self.expected.values() if job.audio_held]
        assert sum(audio.size for audio in self.run(self.store.stored_audio())) == 10 * len(owned)

    @invariant()
    def each_owner_finds_exactly_their_jobs(self) -> None:
        for owner in OWNERS:
            owned = [name for name, job in self.expected.items() if job.owner == owner]
            assert self.listed(owner) == owned[::-1]
            for name in self.expected:
                assert self.sees(owner, name) == (name in owned)

    def listed(self, owner: str) -> list[str]:
        """Return the ids of all pages of an owner's list."""
        page = self.run(self.store.page(owner=owner, limit=2))
        ids = [job.id for job in page.jobs]
        while page.next_cursor:
            page = self.run(self.store.page(owner=owner, limit=2, cursor=page.next_cursor))
            ids += [job.id for job in page.jobs]
        return ids

    def sees(self, owner: str, name: str) -> bool:
        try:
            return self.run(self.store.get(name, owner=owner)).principal == owner
        except JobNotFound:
            return False


JobStoreMachine.TestCase.settings = settings(
    max_examples=depth(ci=8, nightly=100), stateful_step_count=25, deadline=None
)
TestJobStore = JobStoreMachine.TestCase
