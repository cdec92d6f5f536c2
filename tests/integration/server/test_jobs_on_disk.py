"""Jobs against what happens to real processes and disks: kills, a second server, a full disk, a very large upload."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from testing.jobs import open_spool
from whisper_inference.errors import DataFolderBusy, DiskFull, StorageUnusable
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.job import LOCAL, Job, Recovered, SpooledAudio, Status
from whisper_inference.jobs.quota import Quota
from whisper_inference.jobs.spool import Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.service.data_folder import data_folder_lock
from whisper_inference.transcripts.transcript import Options

CHUNK = bytes(range(256)) * 256
GIB = 1 << 30

UPLOAD = """
import asyncio, itertools, sys
from pathlib import Path
from testing.jobs import open_spool

def proportional_mb():
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) / 1024 for line in rollup if line.startswith("Pss:"))

async def main(folder, size):
    async with open_spool(Path(folder), limit_bytes=2 << 30) as spool:
        chunk = bytes(range(256)) * 256
        before = peak = proportional_mb()
        async with spool.writer(2 << 30) as writer:
            for number in range(size // len(chunk)):
                await writer.write(chunk)
                if number % 64 == 0:
                    peak = max(peak, proportional_mb())
            audio = await writer.commit()
        print(audio.size, peak - before)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

SERVER = """
import asyncio, itertools, sys
from datetime import UTC, datetime
from pathlib import Path
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.service.data_folder import data_folder_lock
from whisper_inference.jobs.job import LOCAL, Job
from whisper_inference.jobs.quota import Quota
from whisper_inference.jobs.spool import Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.transcripts.transcript import Options

async def main(folder):
    numbers = itertools.count(1)
    now = lambda: datetime.now(UTC)
    store = JobStore(open_database(sqlite_url(folder)), clock=now, new_token=lambda: f"t{next(numbers)}")
    await store.prepare()
    quota = Quota(database=store.database, clock=now, limit_bytes=1 << 30)
    spool = Spool(open_store(folder / "spool"), quota=quota, new_key=lambda: f"k{next(numbers)}")
    for name in ("running", "queued"):
        async with spool.writer(1 << 30) as writer:
            await writer.write(name.encode() * 1000)
            audio = await writer.commit()
        await store.add(Job(name, Options(), name, audio, "ana", now()))
    await store.lease(LOCAL)
    async with spool.writer(1 << 30) as writer:
        for _ in range(100):
            await writer.write(b"x" * 65536)
        print("ready", flush=True)
        await asyncio.Event().wait()

with data_folder_lock(Path(sys.argv[1])):
    asyncio.run(main(Path(sys.argv[1])))
"""


def store_in(folder: Path) -> JobStore:
    numbers = itertools.count(1)
    clock = lambda: datetime.now(UTC)  # noqa: E731
    return JobStore(open_database(sqlite_url(folder)), clock=clock, new_token=lambda: f"new{next(numbers)}")


def spool_of(store: JobStore, folder: Path) -> Spool:
    quota = Quota(database=store.database, clock=store.clock, limit_bytes=2 * GIB)
    return Spool(open_store(folder / "spool"), quota=quota, new_key=store.new_token)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def a_job(name: str, *, prompt: str = "") -> Job:
    options = Options(initial_prompt=prompt)
    return Job(name, options, name, SpooledAudio(f"audio/{name}", 1, "00"), "ana", datetime.now(UTC))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def killed_server(tmp_path: Path) -> Path:
    """The data folder of a server that was killed with one job running, one queued, and one being uploaded."""
    folder = tmp_path / "data"
    server = subprocess.Popen([sys.executable, "-c", SERVER, folder], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    with pytest.raises(DataFolderBusy, match=f"process {server.pid}"), data_folder_lock(folder):
        pass
    server.send_signal(signal.SIGKILL)
    server.wait(timeout=10)
    server.stdout.close()
    return folder


async def test_a_killed_server_keeps_its_jobs_and_frees_its_folder(killed_server: Path) -> None:
    with data_folder_lock(killed_server):
        store = store_in(killed_server)
        await store.prepare()
        assert await store.recover("the server ended") == Recovered(requeued=("running",), failed=())
        assert (await store.counts())[Status.QUEUED] == 2
        lease = await store.lease(LOCAL)
        assert lease is not None
        assert (lease.job.id, lease.job.attempts) == ("running", 2)
        path = spool_of(store, killed_server).local_path(lease.job.audio.key)
        assert path is not None
        assert path.read_bytes() == b"running" * 1000
        await store.database.close()


async def test_a_start_after_a_kill_deletes_the_half_uploaded_file_only(killed_server: Path) -> None:
    store = store_in(killed_server)
    spool = spool_of(store, killed_server)
    assert len(files(killed_server / "spool")) == 3
    assert await spool.quota.stored_bytes() > 6_000_000
    await store.recover("the server ended")
    owned = {audio.key for audio in await store.stored_audio()}
    assert len(await spool.delete_orphans(store.known_audio)) == 1
    assert await spool.quota.stored_bytes() == 7000 + 6000
    assert {f"audio/{name}" for name in files(killed_server / "spool")} == owned
    await store.database.close()


def test_one_process_holds_a_data_folder_and_the_next_one_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with (
        data_folder_lock(folder),
        pytest.raises(DataFolderBusy, match=f"process {os.getpid()}"),
        data_folder_lock(folder),
    ):
        pass
    with data_folder_lock(folder):
        pass


async def test_audio_that_fills_the_disk_is_refused_and_leaves_nothing(small_disk: Path) -> None:
    async with open_spool(small_disk) as spool:
        with pytest.raises(DiskFull):
            await spooled(spool, chunks=200)
        assert files(small_disk) == []
        assert await spool.quota.stored_bytes() == 0
        assert (await spooled(spool, chunks=1)).size == len(CHUNK)


def test_a_new_data_folder_on_a_full_disk_is_refused_in_a_sentence(small_disk: Path) -> None:
    with suppress(OSError):
        (small_disk / "full").write_bytes(bytes(8 << 20))
    with pytest.raises(StorageUnusable, match="No space left"), data_folder_lock(small_disk):
        pass


async def spooled(spool: Spool, *, chunks: int) -> SpooledAudio:
    async with spool.writer(GIB) as writer:
        for _ in range(chunks):
            await writer.write(CHUNK)
        return await writer.commit()


async def test_a_job_that_the_full_disk_cannot_take_is_refused_and_the_others_stay(small_disk: Path) -> None:
    async def add_many() -> None:
        for number in range(1000):
            await store.add(a_job(f"j{number}", prompt="x" * 50_000))
            stored.append(f"j{number}")

    store, stored = store_in(small_disk), list[str]()
    await store.prepare()
    with pytest.raises(DiskFull):
        await add_many()
    assert len(stored) > 0
    assert [job.id for job in (await store.page(limit=1000)).jobs] == stored[::-1]
    await store.database.close()


@pytest.mark.timeout(120)
def test_an_upload_of_a_gigabyte_grows_the_process_by_at_most_20_mb(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UPLOAD, tmp_path, str(GIB)]
    upload = subprocess.run(command, capture_output=True, text=True, check=True, timeout=110)
    size, grown_mb = upload.stdout.split()
    (tmp_path / "audio" / "k1").unlink()
    assert int(size) == GIB
    assert float(grown_mb) <= 20, f"grew by {grown_mb} MB"
