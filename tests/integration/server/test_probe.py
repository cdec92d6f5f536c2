"""The child process that looks at uploads."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from testing.audio_files import FORMATS, JFK, encode
from testing.imports import imported_with
from whisper_inference.audio.probe import AudioFacts, AudioProbe
from whisper_inference.errors import AudioDamaged, AudioTooLong, NotAudio


async def facts(path: Path, *, max_seconds: float = 3600, timeout: float = 20) -> AudioFacts:
    return await AudioProbe().facts(path, max_seconds=max_seconds, timeout=timeout)


@pytest.mark.parametrize("name", FORMATS)
async def test_a_probe_tells_the_seconds_of_every_format(name: str, tmp_path: Path) -> None:
    found = await facts(encode(tmp_path / "upload", name))
    assert found.seconds == pytest.approx(11, abs=0.2)


async def test_a_probe_tells_foreign_damaged_and_long_files_apart(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello world\n" * 100)
    (tmp_path / "cut").write_bytes(JFK.read_bytes()[:100_000])
    with pytest.raises(NotAudio):
        await facts(tmp_path / "text.wav")
    with pytest.raises(AudioDamaged, match="cut off"):
        await facts(tmp_path / "cut")
    with pytest.raises(AudioTooLong):
        await facts(JFK, max_seconds=5)


async def test_a_probe_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "upload")  # its size is 0, so the child would answer; a deadline of nothing comes first
    with pytest.raises(AudioDamaged, match="longer than 0 s"):
        await facts(tmp_path / "upload", timeout=0)


async def test_at_most_two_probes_run_at_once() -> None:
    probe = AudioProbe()
    running = asyncio.gather(*(probe.facts(JFK, max_seconds=60, timeout=20) for _ in range(5)))
    await asyncio.sleep(0)
    assert probe.slots.locked()
    assert {found.seconds for found in await running} == {11.0}


def test_the_api_side_imports_neither_decoder_nor_arrays() -> None:
    assert {"av", "numpy"} & imported_with(
        "whisper_inference.audio.probe", "whisper_inference.transcripts.languages"
    ) == set()
