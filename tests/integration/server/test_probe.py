"""The child process that probes uploads."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from testing.audio_files import FORMATS, JFK, encode
from testing.imports import imported_with
from whisper_inference.audio.probe import AudioInfo, AudioProbe
from whisper_inference.errors import AudioDamaged, AudioTooLong, NotAudio


async def probe(path: Path, *, max_seconds: float = 3600, timeout: float = 20) -> AudioInfo:
    return await AudioProbe().run(path, max_seconds=max_seconds, timeout=timeout)


@pytest.mark.parametrize("name", FORMATS)
async def test_every_format_has_a_duration(name: str, tmp_path: Path) -> None:
    info = await probe(encode(tmp_path / "upload", name))
    assert info.seconds == pytest.approx(11, abs=0.2)


async def test_foreign_damaged_and_long_files_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello world\n" * 100)
    (tmp_path / "cut").write_bytes(JFK.read_bytes()[:100_000])
    with pytest.raises(NotAudio):
        await probe(tmp_path / "text.wav")
    with pytest.raises(AudioDamaged, match="truncated"):
        await probe(tmp_path / "cut")
    with pytest.raises(AudioTooLong):
        await probe(JFK, max_seconds=5)


async def test_slow_probe_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "upload")  # its size is 0, so the child would report that; a timeout of 0 s comes first
    with pytest.raises(AudioDamaged, match="timed out after 0 s"):
        await probe(tmp_path / "upload", timeout=0)


async def test_at_most_two_probes_run_concurrently() -> None:
    prober = AudioProbe()
    running = asyncio.gather(*(prober.run(JFK, max_seconds=60, timeout=20) for _ in range(5)))
    await asyncio.sleep(0)
    assert prober.slots.locked()
    assert {info.seconds for info in await running} == {11.0}


def test_api_process_imports_neither_av_nor_numpy() -> None:
    assert {"av", "numpy"} & imported_with(
        "whisper_inference.audio.probe", "whisper_inference.transcripts.languages"
    ) == set()


def test_child_processes_do_without_structlog() -> None:
    assert "structlog" not in imported_with("whisper_inference.audio.probe_child", "whisper_inference.worker.zygote")
