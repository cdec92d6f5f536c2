"""Changes of the model file on a real file system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from testing.controller_harness import manifest, write
from whisper_inference.standalone.manifest import Manifest, ManifestError
from whisper_inference.standalone.watch import FileWatch

Changes = AsyncGenerator[Manifest | ManifestError]


@asynccontextmanager
async def watched(path: Path, *, every_seconds: float = 0.02) -> AsyncGenerator[Changes]:
    watch = FileWatch(path, every_seconds=every_seconds)
    watch.read()
    changes = watch.changes()
    try:
        yield changes
    finally:
        await changes.aclose()


async def next_of(changes: Changes) -> Manifest | ManifestError:
    async with asyncio.timeout(60):
        return await anext(changes)


async def size_of_next(changes: Changes) -> str:
    found = await next_of(changes)
    assert isinstance(found, Manifest)
    return found.spec.model.size


def edit(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "model.yaml", size="tiny")
    return tmp_path / "model.yaml"


async def test_file_edited_in_place_is_reread(path: Path) -> None:
    async with watched(path) as changes:
        edit(path, yaml.safe_dump(manifest("base")))
        assert await size_of_next(changes) == "base"


async def test_file_renamed_over_is_reread(path: Path) -> None:
    async with watched(path) as changes:
        for size in ("base", "small", "base"):
            write(path, size=size)
            assert await size_of_next(changes) == size


async def test_mounted_config_map_is_reread(tmp_path: Path) -> None:
    """The kubelet's way: model.yaml -> ..data/model.yaml, ..data -> ..2026, and ..data is renamed over."""
    for version, size in (("..1", "tiny"), ("..2", "base")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "model.yaml", size=size)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "model.yaml").symlink_to("..data/model.yaml")
    async with watched(tmp_path / "model.yaml") as changes:
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        assert await size_of_next(changes) == "base"


async def test_partial_file_is_not_read(path: Path) -> None:
    text = yaml.safe_dump(manifest("base", desiredState="Zero"))
    async with watched(path, every_seconds=0.1) as changes:
        found = asyncio.create_task(next_of(changes))
        with path.open("w") as file:
            for line in text.splitlines(keepends=True):
                file.write(line)
                file.flush()
                await asyncio.sleep(0.03)
        whole = await found
    assert isinstance(whole, Manifest)
    assert (whole.spec.model.size, whole.spec.desired_state) == ("base", "Zero")


async def test_invalid_version_is_reported_once(path: Path) -> None:
    async with watched(path) as changes:
        edit(path, "kind: Pod\n")
        assert isinstance(await next_of(changes), ManifestError)
        again = asyncio.create_task(next_of(changes))
        await asyncio.sleep(0.2)
        assert not again.done()
        write(path, size="base")
        assert isinstance(await again, Manifest)


async def test_removed_file_is_reported_and_reread_when_restored(path: Path) -> None:
    async with watched(path) as changes:
        remove(path)
        gone = await next_of(changes)
        assert isinstance(gone, ManifestError)
        assert "No such file" in str(gone)
        write(path, size="base")
        assert await size_of_next(changes) == "base"


async def test_slow_read_does_not_block_the_loop(path: Path) -> None:
    async with watched(path) as changes:
        edit(path, "[" + "{a: 1}, " * 10_000)
        reading = asyncio.create_task(next_of(changes))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert isinstance(await reading, ManifestError)
        assert turns > 50


async def test_edit_before_the_watch_starts_is_seen(path: Path) -> None:
    watch = FileWatch(path, every_seconds=0.02)
    watch.read()
    write(path, size="base")
    changes = watch.changes()
    assert await size_of_next(changes) == "base"
    await changes.aclose()


async def test_unchanged_file_is_not_reread(path: Path) -> None:
    async with watched(path) as changes:
        again = asyncio.create_task(next_of(changes))
        await asyncio.sleep(0.2)
        assert not again.done()
        again.cancel()
        with pytest.raises(asyncio.CancelledError):
            await again
