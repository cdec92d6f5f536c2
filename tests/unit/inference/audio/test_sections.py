"""Sections of audio files: their samples, where they are cut, and which files are rejected."""

from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.audio_files import FORMATS, RATE, encode, repeated_speech, speech, write_wav
from testing.depth import depth
from whisper_inference.audio.sections import Section, sections
from whisper_inference.errors import AudioDamaged, AudioTooLong, NotAudio

HOUR = 3600.0


def read_sections(path: Path, *, max_seconds: float = 600.0, start_sample: int = 0) -> list[Section]:
    return list(sections(path, start_sample=start_sample, max_seconds=max_seconds, max_audio_seconds=HOUR))


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("audio") / "repeated", repeated_speech(5))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_to_the_speech(name: str, tmp_path: Path) -> None:
    [section] = read_sections(encode(tmp_path / "upload", name))
    expected = speech().astype(np.float32) / 32768
    assert section.last
    assert section.start_sample == 0
    assert section.samples.dtype == np.float32
    assert len(section.samples) == pytest.approx(len(expected), abs=RATE // 4)
    loudness = [np.sqrt(np.mean(samples.astype(np.float64) ** 2)) for samples in (section.samples, expected)]
    assert loudness[0] == pytest.approx(loudness[1], rel=0.1)


@pytest.mark.parametrize("name", ["flac", "wav"])
def test_lossless_audio_at_16_khz_is_bit_exact(name: str, tmp_path: Path) -> None:
    [section] = read_sections(encode(tmp_path / "upload", name))
    np.testing.assert_array_equal(section.samples, speech().astype(np.float32) / 32768.0)


def test_sections_cover_the_file_and_are_cut_in_pauses(repeated: Path) -> None:
    found = read_sections(repeated, max_seconds=20)
    whole = read_sections(repeated)[0].samples
    assert len(found) > 2
    assert [section.last for section in found] == [False] * (len(found) - 1) + [True]
    np.testing.assert_array_equal(np.concatenate([section.samples for section in found]), whole)
    for section in found[:-1]:
        cut = section.start_sample + len(section.samples)
        around_the_cut = whole[cut - RATE // 10 : cut + RATE // 10]
        assert np.abs(around_the_cut).max() < 0.01, f"cut at {cut / RATE} s is in the middle of a word"


def test_resuming_yields_the_same_sections(repeated: Path) -> None:
    uninterrupted = read_sections(repeated, max_seconds=20)
    for index, first in enumerate(uninterrupted):
        resumed = read_sections(repeated, max_seconds=20, start_sample=first.start_sample)
        assert [s.start_sample for s in resumed] == [s.start_sample for s in uninterrupted[index:]]
        for one, other in zip(resumed, uninterrupted[index:], strict=True):
            np.testing.assert_array_equal(one.samples, other.samples)


def test_audio_of_exactly_the_limit_is_one_section(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "upload", np.zeros(20 * RATE, np.int16))
    assert [len(section.samples) for section in read_sections(path, max_seconds=20)] == [20 * RATE]


@pytest.mark.parametrize("name", ["flac", "wav", "mulaw.wav", "m4a", "webm"])
def test_truncated_file_is_damaged(name: str, tmp_path: Path) -> None:
    path = encode(tmp_path / "upload", name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioDamaged) as caught:
        read_sections(path)
    assert str(tmp_path) not in caught.value.detail()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"hello world\n" * 100, id="text"),
        pytest.param(random.Random(0).randbytes(1_000_000), id="random bytes"),
        pytest.param(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", id="a playlist of other files"),
        pytest.param(b"ffconcat version 1.0\nfile /etc/hostname\n", id="a concat script"),
    ],
)
@pytest.mark.parametrize("filename", ["upload", "upload.mp3", "upload.wav", "upload.m3u8"])
def test_non_audio_is_rejected(content: bytes, filename: str, tmp_path: Path) -> None:
    path = tmp_path / filename
    path.write_bytes(content)
    with pytest.raises((NotAudio, AudioDamaged) if "." in filename else NotAudio):
        read_sections(path)


def test_empty_file_is_reported_as_empty(tmp_path: Path) -> None:
    (tmp_path / "upload").touch()
    with pytest.raises(NotAudio, match="the file is empty"):
        read_sections(tmp_path / "upload")


def test_wav_without_samples_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(AudioDamaged):
        read_sections(write_wav(tmp_path / "upload", np.zeros(0, np.int16)))


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wav_written_to_a_pipe_is_accepted(size: int, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "upload", speech())
    _patch(path, at=40, value=struct.pack("<I", size))
    assert len(read_sections(path)[0].samples) == 11 * RATE


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(24, struct.pack("<I", 1), id="1 Hz"),
        pytest.param(24, struct.pack("<I", 2**31 - 1), id="2 GHz"),
        pytest.param(22, struct.pack("<H", 65535), id="65535 channels"),
        pytest.param(22, struct.pack("<H", 0), id="no channels"),
        pytest.param(34, struct.pack("<H", 0), id="0 bits"),
    ],
)
def test_implausible_wav_headers_are_rejected(at: int, value: bytes, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "upload", speech())
    _patch(path, at=at, value=value)
    with pytest.raises((NotAudio, AudioDamaged)):
        read_sections(path)


def test_flac_that_declares_days_is_too_long(tmp_path: Path) -> None:
    path = encode(tmp_path / "upload", "flac")
    _patch(path, at=22, value=struct.pack(">I", 2**32 - 1))  # the low 32 bits of STREAMINFO's sample count
    with pytest.raises(AudioTooLong):
        read_sections(path)


def test_audio_over_the_limit_is_rejected_while_decoding(tmp_path: Path) -> None:
    path = encode(tmp_path / "upload", "mp3")
    with pytest.raises(AudioTooLong):
        list(sections(path, max_audio_seconds=5))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("encoded")
    return {name: encode(folder / "upload", name).read_bytes() for name in FORMATS}


@settings(
    max_examples=depth(ci=50, nightly=500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.floats(0.05, 1),
)
def test_corrupt_bytes_decode_or_raise_a_known_error(
    name: str, flips: list[tuple[int, int]], kept: float, encoded: dict[str, bytes], tmp_path: Path
) -> None:
    content = bytearray(encoded[name][: int(len(encoded[name]) * kept)])
    for at, value in flips:
        content[at % len(content)] = value
    path = tmp_path / "upload"
    path.write_bytes(content)
    with contextlib.suppress(NotAudio, AudioDamaged, AudioTooLong):
        assert all(np.isfinite(section.samples).all() for section in read_sections(path))


def _patch(path: Path, *, at: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
