"""The spool on a real folder: complete objects or nothing, and every byte counted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from threading import Event

import pytest
from obstore.store import MemoryStore

from testing.jobs import open_spool
from whisper_inference.errors import AudioTooLarge, StorageUnusable, TooManyStoredBytes
from whisper_inference.jobs import audio_folder
from whisper_inference.jobs.audio_objects import AudioObjects
from whisper_inference.jobs.audio_store import PART_BYTES, AudioStore
from whisper_inference.jobs.job import StoredAudio
from whisper_inference.jobs.spool import Spool, open_store

CHUNK = bytes(range(256)) * 256


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    async with open_spool(tmp_path / "spool", limit_bytes=1000 * PART_BYTES) as spool:
        yield spool


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("chunks", [0, 1, 16, 40], ids=["empty", "one chunk", "exactly one part", "several parts"])
async def test_committed_audio_is_complete_on_disk(spool: Spool, chunks: int) -> None:
    async with spool.writer(10 * PART_BYTES) as writer:
        for _ in range(chunks):
            await writer.write(CHUNK)
        audio = await writer.commit()
    path = spool.local_path(audio.key)
    assert path is not None
    content = await asyncio.to_thread(path.read_bytes)
    assert content == CHUNK * chunks
    assert audio.size == len(content) <= await spool.quota.stored_bytes()
    assert audio.sha256 == hashlib.sha256(content).hexdigest()


async def write(spool: Spool, *chunks: bytes, limit_bytes: int = 10 * PART_BYTES) -> None:
    """Write without a commit."""
    async with spool.writer(limit_bytes) as writer:
        for chunk in chunks:
            await writer.write(chunk)


async def test_uncommitted_writer_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    await write(spool, *[CHUNK] * 40)
    assert files(tmp_path) == []
    assert await spool.quota.stored_bytes() == 0


async def test_cancelled_writer_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    async def write_for_ever() -> None:
        async with spool.writer(100 * PART_BYTES) as writer:
            while True:
                await writer.write(CHUNK)
                if await spool.quota.stored_bytes() > 5 * PART_BYTES:
                    started.set()
                    await asyncio.Event().wait()

    started = asyncio.Event()
    writing = asyncio.ensure_future(write_for_ever())
    async with asyncio.timeout(10):
        await started.wait()
    writing.cancel()
    await asyncio.wait((writing,))
    assert files(tmp_path) == []
    assert await spool.quota.stored_bytes() == 0


async def test_upload_over_the_cap_is_rejected_and_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(AudioTooLarge, match="65536 bytes"):
        await write(spool, CHUNK, b"x", limit_bytes=len(CHUNK))
    assert files(tmp_path) == []


async def test_open_uploads_share_one_quota(tmp_path: Path) -> None:
    async with open_spool(tmp_path, limit_bytes=2 * len(CHUNK)) as spool:
        async with spool.writer(10 * len(CHUNK)) as first, spool.writer(10 * len(CHUNK)) as second:
            await first.write(CHUNK)
            await second.write(CHUNK)
            await second.write(b"x")
            kept = await first.commit()
            with pytest.raises(TooManyStoredBytes) as refused:
                await second.commit()
        assert refused.value.retry_after == 7
        assert await spool.quota.stored_bytes() == len(CHUNK)
        await spool.delete(kept)
        assert await spool.quota.stored_bytes() == 0


async def test_deleting_twice_has_no_further_effect(spool: Spool, tmp_path: Path) -> None:
    async with spool.writer(PART_BYTES) as writer:
        await writer.write(CHUNK)
        audio = await writer.commit()
    await spool.delete(audio)
    await spool.delete(audio)
    assert files(tmp_path) == []
    assert await spool.quota.stored_bytes() == 0


async def test_orphans_and_partial_files_are_deleted(spool: Spool, tmp_path: Path) -> None:
    async with spool.writer(PART_BYTES) as one, spool.writer(PART_BYTES) as two:
        await one.write(CHUNK)
        owned, orphan = await one.commit(), await two.commit()
    (tmp_path / "spool" / "audio" / "k9#1").write_bytes(b"half")
    (tmp_path / "spool" / "audio" / "k8#1").write_bytes(b"half, and another process still writes it")
    assert set(await spool.delete_orphans(known(owned.key, "audio/k8"))) == {orphan.key, "audio/k9#1"}
    assert files(tmp_path) == [Path(owned.key).name, "k8#1"]


def known(*keys: str) -> Callable[[], Awaitable[frozenset[str]]]:
    async def read() -> frozenset[str]:
        return frozenset(keys)

    return read


async def test_upload_that_begins_while_orphans_are_looked_for_is_kept(spool: Spool, tmp_path: Path) -> None:
    async with spool.writer(PART_BYTES) as orphan:
        await orphan.commit()

    async def known_keys() -> frozenset[str]:
        async with spool.writer(PART_BYTES) as writer:
            await writer.commit()
        return frozenset()  # As read just before the upload was recorded.

    assert await spool.delete_orphans(known_keys) == ("audio/k1",)
    assert files(tmp_path) == ["k2"]


@pytest.mark.parametrize("store_of", [open_store, lambda _: AudioObjects(MemoryStore())])
async def test_audio_can_be_fetched_from_every_kind_of_store(
    tmp_path: Path, store_of: Callable[[Path], AudioStore]
) -> None:
    async with open_spool(store_of(tmp_path / "spool")) as spool:
        async with spool.writer(1 << 30) as writer:
            for _ in range(200):
                await writer.write(CHUNK)
            audio = await writer.commit()
        await spool.fetch_to(tmp_path / "copy", audio.key)
        assert (tmp_path / "copy").read_bytes() == CHUNK * 200
        await spool.delete(audio)
        assert await spool.delete_orphans(known()) == ()
        with pytest.raises(FileNotFoundError):
            await spool.fetch_to(tmp_path / "copy2", audio.key)
    assert not (tmp_path / "copy2").exists()


async def test_remote_audio_has_no_local_path() -> None:
    async with open_spool(AudioObjects(MemoryStore())) as spool:
        assert spool.local_path("audio/k1") is None
        await spool.delete(StoredAudio("audio/never", 1))


@pytest.mark.parametrize(
    "url",
    ["file://audio", "file:audio", "file:///tmp?x=1", "file:///tmp/%00", "file:///tmp/%FF", "s3://[bad"],
)
def test_url_that_names_no_folder_or_bucket_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StorageUnusable):
        open_store(tmp_path, url)


async def test_upload_that_cannot_be_deleted_releases_its_bytes_and_keeps_its_own_error(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(AudioTooLarge):
        await write(spool, bytes(PART_BYTES), bytes(2 * PART_BYTES), limit_bytes=2 * PART_BYTES)
    assert await spool.quota.stored_bytes() == 0


async def test_upload_discarded_while_its_disk_hangs_leaves_nothing_afterwards(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, recovered = os.write, Event()

    def hang(descriptor: int, data: memoryview) -> int:
        recovered.wait(10)
        return write(descriptor, data)

    monkeypatch.setattr(audio_folder, "STORE_DEADLINE_SECONDS", 0.1)
    monkeypatch.setattr(os, "write", hang)
    with contextlib.suppress(TimeoutError):
        async with spool.writer(10 * PART_BYTES) as writer:
            await writer.write(bytes(PART_BYTES))
            await writer.write(bytes(PART_BYTES))
    recovered.set()
    for _ in range(1000):
        if not files(tmp_path):
            break
        await asyncio.sleep(0.01)
    assert files(tmp_path) == []


async def test_short_read_is_not_the_end_of_the_audio(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with spool.writer(10 * PART_BYTES) as writer:
        await writer.write(bytes(range(256)) * 4096)
        audio = await writer.commit()
    monkeypatch.setattr(audio_folder, "PART_BYTES", 1000)
    assert b"".join([bytes(part) async for part in spool.read(audio.key)]) == bytes(range(256)) * 4096
