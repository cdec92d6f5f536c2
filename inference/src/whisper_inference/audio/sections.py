"""Audio files as sections of mono float32 at 16 kHz, decoded as they are needed (PyAV; no ffmpeg binary)."""

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

from whisper_inference.audio.demuxer import Tally, frames, opened, refuse_damaged, refuse_longer, words_of
from whisper_inference.errors import AudioDamaged

SAMPLE_RATE = 16_000
"""Hz; what every Whisper model hears (Radford et al. 2022, section 2.2)."""

SECTION_SECONDS = 600.0
"""s; whisper's mel of ten minutes takes 19 MB and its samples 38 MB: what bounds the worker's memory, with
what its heap keeps of them (worker/resident.py)."""

_CUT_WITHIN_SECONDS = 30.0
_HOP_SAMPLES = SAMPLE_RATE // 50
_WINDOW_HOPS = 10
"""A cut is placed in the middle of the quietest 200 ms, looked for in steps of 20 ms."""

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

    A section depends on its start only: resuming at a section's start_sample gives what an undisturbed run gives.
    Memory: one section as float32 and one as int16. Samples are those of whisper.load_audio (s16, divided by 32768).
    Raises NotAudio, AudioDamaged, AudioTooLong; on a cut-off file after its complete sections.
    """
    limit = round(max_seconds * SAMPLE_RATE)
    held, start = bytearray(), start_sample
    for chunk in _pcm(Path(path), skip_samples=start_sample, max_audio_seconds=max_audio_seconds):
        held += chunk
        while len(held) > limit * _SAMPLE_BYTES:
            cut = _quietest(held, limit=limit)
            yield Section(start, _floats(held, count=cut), last=False)
            del held[: cut * _SAMPLE_BYTES]
            start += cut
    if held:
        yield Section(start, _floats(held, count=len(held) // _SAMPLE_BYTES), last=True)


def _pcm(path: Path, *, skip_samples: int, max_audio_seconds: float) -> Iterator[bytes]:
    """Yield the file's sound from skip_samples on, as native-endian s16, mono, 16 kHz."""
    tally, samples = Tally(), 0
    with opened(path, max_audio_seconds=max_audio_seconds) as audio:
        for frame in _resampled(frames(audio, tally=tally)):
            before, samples = samples, samples + frame.samples
            refuse_longer(samples / SAMPLE_RATE, max_audio_seconds)
            if samples > skip_samples:
                wanted = slice(max(0, skip_samples - before) * _SAMPLE_BYTES, frame.samples * _SAMPLE_BYTES)
                yield bytes(frame.planes[0])[wanted]
        refuse_damaged(audio, tally=tally, seconds=samples / SAMPLE_RATE)


def _resampled(decoded: Iterable[AudioFrame]) -> Iterator[AudioFrame]:
    """Yield frames as FFmpeg's `-ac 1 -ar 16000 -f s16le` would, also when the format changes on the way."""
    resampler, shape = None, None
    try:
        for frame in decoded:
            if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
                yield from resampler.resample(None) if resampler else ()
                resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            frame.pts = None  # gaps in the timestamps are not sound: FFmpeg's raw output ignores them too
            assert resampler is not None
            yield from resampler.resample(frame)
        yield from resampler.resample(None) if resampler else ()
    except (FFmpegError, ValueError) as error:
        raise AudioDamaged(reason=f"it cannot be mixed to mono at 16 kHz: {words_of(error)}") from error


def _quietest(held: bytearray, *, limit: int) -> int:
    """Return where to cut within the first limit samples: the middle of the last quietest window near their end."""
    search = min(round(_CUT_WITHIN_SECONDS * SAMPLE_RATE), limit // 2) // _HOP_SAMPLES * _HOP_SAMPLES
    tail = np.frombuffer(held, np.int16, count=search, offset=(limit - search) * _SAMPLE_BYTES).astype(np.int64)
    energies = np.square(tail).reshape(-1, _HOP_SAMPLES).sum(axis=1)
    if len(energies) <= _WINDOW_HOPS:
        return limit
    sums = np.concatenate(([0], np.cumsum(energies)))
    windows = sums[_WINDOW_HOPS:] - sums[:-_WINDOW_HOPS]
    quietest = len(windows) - 1 - int(np.argmin(windows[::-1]))
    return limit - search + quietest * _HOP_SAMPLES + _WINDOW_HOPS * _HOP_SAMPLES // 2


def _floats(held: bytearray, *, count: int) -> NDArray[np.float32]:
    return np.frombuffer(held, np.int16, count=count).astype(np.float32) / np.float32(32768.0)
