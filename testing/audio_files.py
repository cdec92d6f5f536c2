"""Audio files for tests, encoded with PyAV from the bundled speech."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from testing.paths import JFK

RATE = 16_000

FORMATS: dict[str, tuple[str, str, int, str]] = {
    "mulaw.wav": ("wav", "pcm_mulaw", 8_000, "stereo"),
    "mp3": ("mp3", "libmp3lame", 44_100, "mono"),
    "opus.ogg": ("ogg", "libopus", 48_000, "mono"),
    "m4a": ("mp4", "aac", 44_100, "stereo"),
    "webm": ("webm", "libopus", 48_000, "mono"),
    "flac": ("flac", "flac", 16_000, "mono"),
    "wav": ("wav", "pcm_s16le", 16_000, "mono"),
}
"""Container, codec, sample rate and layout by name."""


def encode(target: Path, name: str, *, source: Path = JFK) -> Path:
    """Encode the source into target in one of FORMATS."""
    container, codec, rate, layout = FORMATS[name]
    with av.open(str(source)) as source_file, av.open(str(target), "w", format=container) as target_file:
        stream = target_file.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, AudioStream)
        for frame in source_file.decode(audio=0):
            target_file.mux(stream.encode(frame))
        target_file.mux(stream.encode(None))
    return target


def write_wav(target: Path, samples: NDArray[np.int16], *, rate: int = RATE) -> Path:
    """Write mono s16 samples as a WAV file."""
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return target


def speech() -> NDArray[np.int16]:
    """Return the bundled speech: 11 s at 16 kHz."""
    with av.open(str(JFK)) as file:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        frames = [*file.decode(audio=0), None]
        chunks = [chunk.to_ndarray()[0] for frame in frames for chunk in resampler.resample(frame)]
    return np.concatenate(chunks)


def repeated_speech(times: int) -> NDArray[np.int16]:
    """Return the speech several times, with a second of faint noise in between."""
    noise = np.random.default_rng(0).integers(-40, 40, RATE).astype(np.int16)
    return np.concatenate([speech() if index % 2 == 0 else noise for index in range(2 * times - 1)])


def speech_in_windows(times: int) -> NDArray[np.int16]:
    """Return the speech several times, every 30 s.

    Each is in a window of its own: repeated text within one is decoded again at every temperature, up to 1.0, and then
    depends on random draws.
    """
    said = speech()
    silence = np.zeros(30 * RATE - len(said), np.int16)
    return np.concatenate([said, silence] * times)
