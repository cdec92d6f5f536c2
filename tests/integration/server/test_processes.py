"""Real zygotes and workers with real weights: what is there, what is left, and what their sudden ends come to."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from testing.audio_files import JFK
from testing.processes_stand_in import ProcessesContract
from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import CheckpointMissing, LoadFailed, ServiceError
from whisper_inference.execution import ExecutorLost, Finished, SectionDone
from whisper_inference.lifecycle import processes as lifecycle_processes
from whisper_inference.lifecycle.machine import Policy
from whisper_inference.lifecycle.owner import LifecycleOwner
from whisper_inference.lifecycle.processes import LoadCancelled, Processes
from whisper_inference.model_control import LoadReceipt, UnloadReceipt
from whisper_inference.parentage import adopt_orphans
from whisper_inference.transcripts.transcript import Options, Resume
from whisper_inference.worker import protocol
from whisper_inference.worker.supervisor import Liveness
from whispermodel.states import Depth, State

MB = 10**6
LIVENESS = Liveness(silent_seconds=2.5)


class NoGpu:
    def used_bytes(self) -> int:
        return 0


@pytest.fixture(scope="module", autouse=True)
def reaper() -> None:
    adopt_orphans()


@pytest.fixture
def spec(weights: dict[str, Path], tmp_path: Path) -> ModelSpec:
    path = str(weights["faster-whisper"])
    return ModelSpec("tiny.en", engine="faster-whisper", cache_dir=str(tmp_path), device="cpu", path=path)


async def lent(spec: ModelSpec, *, on_zygote_lost: Callable[[], None] = lambda: None) -> AsyncIterator[Processes]:
    """Processes that end with the test, which fails if any child outlives them."""
    before = children()
    processes = Processes(spec, gpu=NoGpu(), liveness=LIVENESS, on_zygote_lost=on_zygote_lost)
    yield processes
    await processes.end_worker("stopped", "the test is over")
    await processes.end_zygote()
    left = [(child.pid, child.status()) for child in children() - before]
    assert not left, f"left behind: {left}"


@pytest.fixture
async def processes(spec: ModelSpec) -> AsyncIterator[Processes]:
    async for processes in lent(spec):
        yield processes


def children() -> set[psutil.Process]:
    """Return all living descendants, zombies included: they are not reaped."""
    return set(psutil.Process().children(recursive=True))


def zygote_of(processes: Processes) -> psutil.Process:
    assert processes._zygote is not None
    return psutil.Process(processes._zygote.pid)


def worker_of(processes: Processes) -> psutil.Process:
    assert processes.worker is not None
    return psutil.Process(processes.worker.pid)


def wait_for_death(process: psutil.Process) -> None:
    """Hold up the event loop meanwhile, so that nobody here knows of the death yet."""
    # A thread of asyncio's reaps it, perhaps between the two questions.
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)


async def until(fact: Callable[[], bool], what: str, *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


async def release(processes: Processes, depth: Depth) -> UnloadReceipt:
    return await processes.release(depth, device="cpu", reason="test", forced=False)


async def text_of(processes: Processes) -> str:
    assert processes.worker is not None
    order = protocol.Transcribe(job="j", path=str(JFK), options=Options(), resume=None, max_audio_seconds=60)
    sections = [m async for m in processes.worker.run(order) if isinstance(m, SectionDone)]
    return "".join(segment.text for section in sections for segment in section.segments)


class TestReal(ProcessesContract):
    """The contract that the stand-in of the owner's tests keeps too."""

    @pytest.fixture
    async def processes(self, spec: ModelSpec, zygote_lost: asyncio.Event) -> AsyncIterator[Processes]:
        async for processes in lent(spec, on_zygote_lost=zygote_lost.set):
            yield processes

    @pytest.fixture
    async def broken(self, spec: ModelSpec) -> AsyncIterator[Processes]:
        async for processes in lent(replace(spec, path="/nowhere")):
            yield processes

    def kill_worker(self, processes: Processes) -> None:
        worker_of(processes).kill()

    def kill_zygote(self, processes: Processes) -> None:
        zygote_of(processes).kill()


async def test_a_job_resumed_after_its_last_section_knows_its_length(processes: Processes) -> None:
    await processes.load("test")
    assert processes.worker is not None
    at_the_end = Resume(next_start_sample=11 * 16_000, language="en", previous_text=None, next_segment_id=1)
    order = protocol.Transcribe(job="j", path=str(JFK), options=Options(), resume=at_the_end, max_audio_seconds=60)
    said = [message async for message in processes.worker.run(order)]
    assert said == [Finished(job="j", seconds=11.0)]


async def test_a_load_is_two_processes_a_warm_unload_leaves_one_a_cold_one_none(processes: Processes) -> None:
    before = children()
    cold = await processes.load("test")
    zygote, worker = zygote_of(processes), worker_of(processes)
    assert children() - before == {zygote, worker}
    assert {"import"} <= set(cold.phases)
    assert 20 * MB < cold.ram_bytes < 2000 * MB
    assert "country" in await text_of(processes)

    warm = await release(processes, Depth.WARM)
    assert children() - before == {zygote}
    assert warm.fully_released
    assert warm.freed_ram_bytes > 10 * MB

    again = await processes.load("test")
    assert zygote_of(processes) == zygote
    assert "import" not in again.phases

    gone = await release(processes, Depth.COLD)
    assert children() == before
    assert gone.fully_released
    assert gone.freed_ram_bytes > 10 * MB
    assert gone.residue_ram_bytes < 20 * MB


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
async def test_a_zygote_has_one_thread_after_its_imports(engine: str, spec: ModelSpec) -> None:
    async for processes in lent(replace(spec, engine=engine)):
        zygote = await processes.start_zygote()
        await zygote.ready()
        assert psutil.Process(zygote.pid).num_threads() == 1


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
@pytest.mark.parametrize(
    ("given", "spins"),
    [
        pytest.param({}, "0", id="sleep at once"),
        pytest.param({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000", id="keep a user's policy"),
        pytest.param({"GOMP_SPINCOUNT": "777"}, "777", id="keep a user's spin count"),
    ],
)
async def test_waiting_openmp_threads(
    engine: str,
    given: dict[str, str],
    spins: str,
    spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    # Makes libgomp print what it has read, once an import loads it. Its OMP_WAIT_POLICY reads PASSIVE when it is unset.
    for name, value in {"OMP_DISPLAY_ENV": "VERBOSE", **given}.items():
        monkeypatch.setenv(name, value)
    async for processes in lent(replace(spec, engine=engine)):
        zygote = await processes.start_zygote()
        await zygote.ready()
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", capfd.readouterr().err)) == {spins}


async def test_a_killed_zygote_and_its_worker_are_reaped(processes: Processes) -> None:
    before = children()
    await processes.load("test")
    assert processes.worker is not None
    exited = processes.worker.exited
    zygote_of(processes).kill()
    await asyncio.wait_for(asyncio.shield(exited), 10)
    await until(lambda: children() == before, "both are reaped")
    assert processes.depth is Depth.COLD
    await processes.load("test")
    assert "country" in await text_of(processes)


@pytest.mark.parametrize("depth", Depth)
async def test_a_release_right_after_the_zygotes_death_succeeds(processes: Processes, depth: Depth) -> None:
    before = children()
    await processes.load("test")
    zygote = zygote_of(processes)
    zygote.kill()
    wait_for_death(zygote)
    receipt = await release(processes, depth)
    assert receipt.fully_released
    await until(lambda: children() == before, "both are reaped")
    await processes.load("test")


async def test_a_load_right_after_the_zygotes_death_says_so_and_the_next_one_works(processes: Processes) -> None:
    await processes.load("test")
    await release(processes, Depth.WARM)
    zygote = zygote_of(processes)
    zygote.kill()
    wait_for_death(zygote)
    with pytest.raises(ExecutorLost, match="zygote"):
        await processes.load("test")
    await processes.load("test")


async def test_a_zygote_that_does_not_respond_is_killed_with_its_worker(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle_processes, "REAP_SECONDS", 0.3)
    before = children()
    await processes.load("test")
    zygote_of(processes).suspend()
    await release(processes, Depth.WARM)
    assert children() == before
    await processes.load("test")


async def test_a_zygote_that_does_not_fork_is_replaced_by_the_next_load(processes: Processes) -> None:
    await processes.load("test")
    await release(processes, Depth.WARM)
    deaf = zygote_of(processes)
    deaf.suspend()
    with pytest.raises(ExecutorLost, match="did not respond"):
        await asyncio.wait_for(processes.load("test"), 5 * LIVENESS.silent_seconds)
    await until(lambda: processes.depth is Depth.COLD, "its end is noted")
    await until(lambda: not deaf.is_running(), "it is reaped")
    await processes.load("test")


async def test_a_worker_that_is_killed_during_a_job_ends_the_job_with_its_signal(processes: Processes) -> None:
    await processes.load("test")
    worker = worker_of(processes)
    job = asyncio.create_task(text_of(processes))
    await until(lambda: worker.cpu_times().user > 0.3, "the job runs")
    worker.kill()
    with pytest.raises(ExecutorLost, match="SIGKILL") as gone:
        await asyncio.wait_for(job, 10)
    assert gone.value.cause == "crash"
    assert zygote_of(processes).is_running()


async def test_the_next_load_keeps_the_cause_of_a_workers_death(processes: Processes) -> None:
    await processes.load("test")
    dead = processes.worker
    assert dead is not None
    worker_of(processes).kill()
    await asyncio.wait_for(asyncio.shield(dead.exited), 10)
    await processes.load("test")
    assert "SIGKILL" in dead.diagnosis().detail


async def test_a_stopped_worker_counts_as_hung_and_is_replaced(processes: Processes) -> None:
    await processes.load("test")
    assert processes.worker is not None
    first = processes.worker
    os.kill(first.pid, signal.SIGSTOP)
    began = time.monotonic()
    await asyncio.wait_for(asyncio.shield(first.exited), 15)
    assert time.monotonic() - began < 3 * LIVENESS.silent_seconds
    assert processes.why_worker_is_gone().cause == "hang"
    await processes.load("test")
    assert "country" in await text_of(processes)


@pytest.mark.parametrize("warm", [False, True], ids=["from cold", "from warm"])
@pytest.mark.parametrize("depth", Depth)
async def test_a_load_cancelled_while_it_loads_leaves_what_the_depth_says(
    processes: Processes, depth: Depth, warm: bool
) -> None:
    before = children()
    if warm:
        await (await processes.start_zygote()).ready()
    loading = asyncio.create_task(processes.load("test"))
    await until(lambda: processes.worker is not None, "a worker is forked")
    await take_back(processes, loading, depth)
    assert len(children() - before) == (depth is Depth.WARM)


@pytest.mark.parametrize("depth", Depth)
async def test_a_load_cancelled_during_its_imports_leaves_what_the_depth_says(
    processes: Processes, depth: Depth
) -> None:
    before = children()
    began = time.monotonic()
    loading = asyncio.create_task(processes.load("test"))
    await until(lambda: processes._zygote is not None, "the zygote is started")
    await take_back(processes, loading, depth)
    assert len(children() - before) == (depth is Depth.WARM)
    if depth is Depth.COLD:
        assert time.monotonic() - began < 1, "waited for the imports"
    await processes.load("test")


async def take_back(processes: Processes, loading: asyncio.Task[LoadReceipt], depth: Depth) -> None:
    processes.cancel_load(depth)
    with pytest.raises((LoadCancelled, ExecutorLost)):
        await asyncio.wait_for(loading, 30)
    await release(processes, depth)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"path": "/nowhere"}, CheckpointMissing, id="missing file"),
        pytest.param({"engine": "another"}, LoadFailed, id="missing engine"),
        pytest.param({"compute_type": "float16"}, LoadFailed, id="unfit compute type"),
    ],
)
async def test_what_cannot_be_loaded_says_why_and_leaves_no_worker(
    spec: ModelSpec, change: dict[str, str], error: type[ServiceError]
) -> None:
    async for processes in lent(replace(spec, **change)):
        for _ in range(2):
            with pytest.raises(error):
                await asyncio.wait_for(processes.load("test"), 60)
        await processes.end_worker("stopped", "its load failed")
        assert processes.worker is None


async def test_twenty_cycles_leave_neither_descriptors_nor_processes(processes: Processes) -> None:
    async def cycle(depth: Depth) -> None:
        await processes.load("test")
        await release(processes, depth)

    await cycle(Depth.COLD)
    await cycle(Depth.WARM)
    descriptors, there = open_descriptors(), children()
    for _ in range(18):
        await cycle(Depth.WARM)
    await cycle(Depth.COLD)
    await cycle(Depth.WARM)
    await asyncio.sleep(0)
    assert open_descriptors() == descriptors
    assert len(children()) == len(there)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a count, without a listing's own descriptor in the way)


class NullObserver:
    """An Observer that needs to know nothing."""

    def loaded(self, receipt: LoadReceipt) -> None: ...
    def load_failed(self, error: ServiceError, trigger: str) -> None: ...
    def unloaded(self, receipt: UnloadReceipt) -> None: ...
    def worker_died(self, cause: str) -> None: ...


async def test_an_owner_of_real_processes_replaces_a_dead_worker_and_stops_clean(spec: ModelSpec) -> None:
    before = children()
    made: list[Processes] = []

    def make(on_zygote_lost: Callable[[], None]) -> Processes:
        made.append(Processes(spec, gpu=NoGpu(), liveness=LIVENESS, on_zygote_lost=on_zygote_lost))
        return made[0]

    owner = LifecycleOwner(make, policy=Policy(unload_after=None), observer=NullObserver())
    [processes] = made
    async with owner.worker() as worker:
        os.kill(worker.pid, signal.SIGKILL)
        await asyncio.wait_for(asyncio.shield(worker.exited), 10)
    async with asyncio.timeout(30), owner.worker() as worker:
        assert owner.lifecycle.state is State.LOADED
        assert "country" in await text_of(processes)
    unloaded = await owner.unload(Depth.WARM, reason="test", force=False)
    assert unloaded is not None
    assert unloaded.fully_released
    zygote_of(processes).kill()
    await until(lambda: owner.lifecycle.depth is Depth.COLD, "the loss is known")
    await owner.load("test")
    await owner.stop()
    assert children() == before
