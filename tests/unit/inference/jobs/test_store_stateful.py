"""Any interleaving of clients, processes, crashes, clock steps and sweeps: no job is lost, shown to others, or given
two results."""

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
from whisper_inference.errors import IdempotencyConflict, JobNotFound, NotAudio, TooManyStoredBytes
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.job import (
    BACKGROUND_DELAY,
    LEASE,
    LOCAL,
    MAX_ATTEMPTS,
    Added,
    Job,
    Section,
    SpooledAudio,
    StaleAttempt,
    Status,
)
from whisper_inference.jobs.quota import ABANDONED_AFTER, Quota, Upload
from whisper_inference.jobs.store import JobStore
from whisper_inference.transcripts.transcript import Options, Resume, Segment
from whispermodel.key import Key

DAY = timedelta(days=1)
OWNERS = ("ana", "rui")
PROCESSES = ("gateway-0", "gateway-1")
LIMIT_BYTES = 500
MODELS = (LOCAL, Key("speech", "base"))
T = TypeVar("T")


@dataclass
class Expected:
    """What the reference model knows about a job."""

    number: int
    owner: str
    content: str
    key: str | None
    model: Key
    due: datetime
    status: Status = Status.QUEUED
    attempts: int = 0
    token: str | None = None
    process: str = ""
    until: datetime | None = None
    texts: list[str] = field(default_factory=list[str])
    ended: datetime | None = None
    audio_held: bool = True

    def came_under(self, owner: str, key: str) -> bool:
        return (self.owner, self.key) == (owner, key)


@dataclass
class Arriving:
    """What the reference model knows about an upload."""

    process: str
    model: Key
    reserved: int
    renewed: datetime


class JobStoreMachine(RuleBasedStateMachine):
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.numbers = itertools.count(1)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.expected: dict[str, Expected] = {}
        self.uploads: dict[str, Arriving] = {}
        self.stores = {process: self.opened(process) for process in PROCESSES}
        self.store = self.stores[PROCESSES[0]]

    def opened(self, process: str) -> JobStore:
        engine = open_database(sqlite_url(self.folder))
        new_token = lambda: f"t{next(self.numbers)}"  # noqa: E731
        store = JobStore(engine, clock=lambda: self.now, new_token=new_token, owner=process)
        self.run(store.prepare())
        return store

    def run(self, operation: Coroutine[object, object, T]) -> T:
        return self.runner.run(operation)

    def teardown(self) -> None:
        for store in self.stores.values():
            self.run(store.database.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def running(self, token: str) -> Expected | None:
        return next((job for job in self.expected.values() if job.token == token), None)

    def quota(self, process: str) -> Quota:
        store = self.stores[process]
        return Quota(database=store.database, clock=store.clock, limit_bytes=LIMIT_BYTES, owner=process)

    def stored_bytes(self, model: Key | None = None) -> int:
        held = [10 for job in self.expected.values() if job.audio_held and model in (None, job.model)]
        return sum(held) + sum(upload.reserved for upload in self.uploads.values() if model in (None, upload.model))

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

    def end(self, job: Expected, status: Status, *, process: str) -> None:
        job.status, job.token, job.ended, job.process = status, None, self.now, process

    def lose(self, job: Expected, *, process: str) -> None:
        if job.attempts >= MAX_ATTEMPTS:
            self.end(job, Status.FAILED, process=process)
        else:
            job.status, job.token = Status.QUEUED, None

    @rule(
        process=st.sampled_from(PROCESSES),
        owner=st.sampled_from(OWNERS),
        content=st.sampled_from("xy"),
        key=st.sampled_from([None, "k1", "k2"]),
        model=st.sampled_from(MODELS),
        waits=st.booleans(),
    )
    def add(self, process: str, owner: str, content: str, key: str | None, model: Key, waits: bool) -> None:
        number = next(self.numbers)
        content += model.name
        audio = SpooledAudio(f"audio/{number}", 10, content)
        if not self.reserve(process, audio.key, model=model, size=10):
            return
        job = Job(f"j{number}", Options(), "a.flac", audio, owner, self.now, model, waits, key)
        before = next((name for name, other in self.expected.items() if key and other.came_under(owner, key)), None)
        try:
            outcome = self.run(self.stores[process].add(job))
        except IdempotencyConflict:
            assert before is not None
            assert self.expected[before].content != content
            return
        assert isinstance(outcome, Added) == (before is None)
        assert outcome.job.id == (before or job.id)
        if before is None:
            del self.uploads[audio.key]
            self.expected[job.id] = Expected(number, owner, content, key, model, job.due_at)

    def reserve(self, process: str, key: str, *, model: Key, size: int) -> bool:
        known = self.uploads.get(key, Arriving(process, model, 0, self.now))
        fits = self.stored_bytes() - known.reserved + size <= LIMIT_BYTES
        try:
            granted = self.run(self.quota(process).reserve(Upload(key, model, "ana"), needed=size, wanted=size))
        except TooManyStoredBytes:
            assert not fits
            return False
        assert fits
        assert granted == size
        self.uploads[key] = Arriving(process, model, size, self.now)
        return True

    @rule(which=st.integers(0, 5), size=st.integers(1, 100))
    def grow(self, which: int, size: int) -> None:
        for key in list(self.uploads)[which : which + 1]:
            upload = self.uploads[key]
            self.reserve(upload.process, key, model=upload.model, size=upload.reserved + size)

    @rule(which=st.integers(0, 5))
    def give_up_upload(self, which: int) -> None:
        for key in list(self.uploads)[which : which + 1]:
            self.run(self.quota(self.uploads[key].process).release(key))
            del self.uploads[key]

    @rule(target=tokens, process=st.sampled_from(PROCESSES), model=st.sampled_from(MODELS))
    def lease(self, process: str, model: Key) -> object:
        queued = [job for job in self.expected.values() if job.status is Status.QUEUED and job.model == model]
        queued.sort(key=lambda job: (job.due, job.number))
        assert [ahead.jobs for job in queued if (ahead := self.run(self.store.ahead(f"j{job.number}")))] == list(
            range(len(queued))
        )
        lease = self.run(self.stores[process].lease(model))
        if lease is None:
            assert not queued
            return multiple()
        job = self.expected[lease.job.id]
        assert job is queued[0]
        job.process, job.until = process, self.now + LEASE
        assert (lease.resume.next_segment_id if lease.resume else 0) == len(job.texts)
        job.status, job.attempts, job.token = Status.RUNNING, job.attempts + 1, lease.token
        assert lease.job.attempts == job.attempts
        return lease.token

    @rule(process=st.sampled_from(PROCESSES))
    def renew(self, process: str) -> None:
        held = {job.token: job for job in self.expected.values() if job.token and job.process == process}
        assert self.run(self.stores[process].renew({*held, "stale"} - {None})) == set(held)
        for job in held.values():
            job.until = self.now + LEASE

    @rule(process=st.sampled_from(PROCESSES))
    def take_over(self, process: str) -> None:
        others = [job for job in self.expected.values() if job.token and job.process != process]
        dead = [job for job in others if job.until and not self.now < job.until <= self.now + LEASE]
        taken = self.run(self.stores[process].take_over("gone"))
        assert {*taken.requeued, *taken.failed} == {f"j{job.number}" for job in dead}
        for job in dead:
            self.lose(job, process=process)

    @rule(seconds=st.sampled_from([1, 16, 3600, -1, -3600]))
    def step_clock(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

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
            self.end(job, Status.SUCCEEDED, process=self.store.owner)

    @rule(token=tokens)
    def fail(self, token: str) -> None:
        job = self.attempt(token, self.store.fail(token, NotAudio(reason="noise")))
        if job is not None:
            self.end(job, Status.FAILED, process=self.store.owner)

    @rule(token=tokens)
    def retry(self, token: str) -> None:
        job = self.attempt(token, self.store.retry(token, "killed"))
        if job is not None:
            self.lose(job, process=self.store.owner)

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
            self.end(self.expected[name], Status.CANCELLED, process=self.store.owner)

    @rule(process=st.sampled_from(PROCESSES))
    def crash(self, process: str) -> None:
        self.run(self.stores[process].database.close())
        self.stores[process] = self.opened(process)
        self.store = self.stores[PROCESSES[0]]
        self.run(self.stores[process].recover("the server ended"))
        for key, upload in list(self.uploads.items()):
            if upload.process == process or upload.renewed < self.now - ABANDONED_AFTER:
                del self.uploads[key]
        for job in self.expected.values():
            if job.process != process:
                continue
            if job.status is Status.RUNNING:
                self.lose(job, process=process)
            if job.status.final:
                job.audio_held = False

    @rule(days=st.sampled_from([0, 0.5, 2]))
    def sweep(self, days: float) -> None:
        self.now += days * DAY
        gone = {name: job for name, job in self.expected.items() if job.ended and job.ended <= self.now - DAY}
        swept = self.run(self.store.sweep(DAY))
        assert {audio.key for audio in swept} == {f"audio/{job.number}" for job in gone.values() if job.audio_held}
        for name in gone:
            del self.expected[name]
        for job in self.expected.values():
            if job.status is Status.QUEUED:
                job.due = min(job.due, self.now + BACKGROUND_DELAY)

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
    def every_byte_is_counted_and_every_object_known(self) -> None:
        for model in (None, *MODELS):
            assert self.run(self.quota(PROCESSES[0]).stored_bytes(model)) == self.stored_bytes(model)
        held = {f"audio/{job.number}" for job in self.expected.values() if job.audio_held}
        assert self.run(self.store.known_audio()) == held | set(self.uploads)

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
