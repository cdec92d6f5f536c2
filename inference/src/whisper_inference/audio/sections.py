"""Splits audio files into sections of mono float32 at 16 kHz, decoded on demand (PyAV; no ffmpeg binary)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.error import FFmpegError
from numpy.typing import NDArray

from whisper_inference.audio.demuxer import (
    DecodeStats,
    check_complete,
    check_length,
    decode_frames,
    error_text,
    open_audio,
)
from whisper_inference.errors import AudioDamaged

SAMPLE_RATE = 16_000
"""Hz; the input of every Whisper model (Radford et al. 2022, section 2.2)."""

SECTION_SECONDS = 600.0
"""Longest section. It bounds the worker's memory: ten minutes take 38 MB of samples and 19 MB of whisper's mel
spectrogram, plus what the heap keeps of them (worker/resident.py)."""

_CUT_SEARCH_SECONDS = 30.0
_HOP_SAMPLES = SAMPLE_RATE // 50
_WINDOW_HOPS = 10
"""A cut is placed in the middle of the quietest 200 ms, searched for in steps of 20 ms."""

_SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of the audio. start_sample: at 16 kHz from the start of the file; samples: mono, -1 to 1."""

    start_sample: int
    samples: NDArray[np.float32]
    last: bool


def sections(
    path: str | PathLike[str],
    *,
    max_audio_seconds: float,
    start_sample: int = 0,
    max_seconds: float = SECTION_SECONDS,
) -> Iterator[Section]:
    """Yield a file's sections of at most max_seconds each, cut at the quietest point of the last 30 s before that.

    A section depends on its start only: resuming at a section's start_sample yields the same sections as an
    uninterrupted run. Memory: one section as float32 and one as int16. Samples equal those of whisper.load_audio (s16,
    divided by 32768). Raises NotAudio, AudioDamaged, AudioTooLong; for a truncated file, after its complete sections.
    """
    limit = round(max_seconds * SAMPLE_RATE)
    buffer, start = bytearray(), start_sample
    for chunk in _pcm(Path(path), skip_samples=start_sample, max_audio_seconds=max_audio_seconds):
        buffer += chunk
        while len(buffer) > limit * _SAMPLE_BYTES:
            cut = _quietest_point(buffer, limit=limit)
            yield Section(start, _as_float32(buffer, count=cut), last=False)
            del buffer[: cut * _SAMPLE_BYTES]
            start += cut
    if buffer:
        yield Section(start, _as_float32(buffer, count=len(buffer) // _SAMPLE_BYTES), last=True)


def _pcm(path: Path, *, skip_samples: int, max_audio_seconds: float) -> Iterator[bytes]:
    """Yield the audio from skip_samples on, as native-endian s16, mono, 16 kHz."""
    stats, samples = DecodeStats(), 0
    with open_audio(path, max_audio_seconds=max_audio_seconds) as audio:
        for frame in _resample(decode_frames(audio, stats=stats)):
            before, samples = samples, samples + frame.samples
            check_length(samples / SAMPLE_RATE, max_audio_seconds)
            if samples > skip_samples:
                unskipped = slice(max(0, skip_samples - before) * _SAMPLE_BYTES, frame.samples * _SAMPLE_BYTES)
                yield bytes(frame.planes[0])[unskipped]
        check_complete(audio, stats=stats, seconds=samples / SAMPLE_RATE)


def _resample(decoded: Iterable[AudioFrame]) -> Iterator[AudioFrame]:
    """Yield frames as FFmpeg's `-ac 1 -ar 16000 -f s16le` would, even if the format changes midway."""
    resampler, shape = None, None
    try:
        for frame in decoded:
            if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
                yield from resampler.resample(None) if resampler else ()
                resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            frame.pts = None  # FFmpeg's raw output ignores gaps in the timestamps, so do the same
            assert resampler is not None
            yield from resampler.resample(frame)
        yield from resampler.resample(None) if resampler else ()
    except (FFmpegError, ValueError) as error:
        raise AudioDamaged(reason=f"it cannot be resampled to 16 kHz mono: {error_text(error)}") from error


def _quietest_point(buffer: bytearray, *, limit: int) -> int:
    """Return where to cut within the first limit samples: the middle of the last quietest window near their end."""
    search = min(round(_CUT_SEARCH_SECONDS * SAMPLE_RATE), limit // 2) // _HOP_SAMPLES * _HOP_SAMPLES
    tail = np.frombuffer(buffer, np.int16, count=search, offset=(limit - search) * _SAMPLE_BYTES).astype(np.int64)
    energies = np.square(tail).reshape(-1, _HOP_SAMPLES).sum(axis=1)
    if len(energies) <= _WINDOW_HOPS:
        return limit
    sums = np.concatenate(([0], np.cumsum(energies)))
    windows = sums[_WINDOW_HOPS:] - sums[:-_WINDOW_HOPS]
    quietest = len(windows) - 1 - int(np.argmin(windows[::-1]))
    return limit - search + quietest * _HOP_SAMPLES + _WINDOW_HOPS * _HOP_SAMPLES // 2


def _as_float32(buffer: bytearray, *, count: int) -> NDArray[np.float32]:
    return np.frombuffer(buffer, np.int16, count=count).astype(np.float32) / np.float32(32768.0)
