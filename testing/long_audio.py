"""Make the audio that benchmarks send, from the bundled speech: `python -m testing.long_audio FILE`."""

from __future__ import annotations

import struct
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from testing.paths import JFK

RATE = 16_000
_DENSE_SECONDS = 20
"""From one beginning of the 11 s of speech to the next. Closer, and a window of 30 s repeats itself so much that
Whisper takes its text for a loop (compression ratio above 2.4) and samples it anew, up to five times."""
_FLOAT_WAVE = 3  # WAVE_FORMAT_IEEE_FLOAT, mmreg.h
_FLOAT_STEREO_BYTES = 8


def make(path: Path) -> None:
    """Make the file that its name asks for."""
    part = path.with_suffix(".part")
    match path.stem.split("-"):
        case ["dense", seconds]:
            _write(part, repeated(every_seconds=_DENSE_SECONDS, seconds=int(seconds)))
        case ["sparse", seconds]:
            _write(part, repeated(every_seconds=60, seconds=int(seconds)))
        case ["upload", "10mb"]:
            _write_float(part, seconds=28.3, rate=44_100)
        case ["upload", "100mb"]:
            _write_silence(part, size=100_000_000)
        case ["upload", "1gb"]:
            _write_silence(part, size=1_000_000_000)
        case _:
            raise ValueError(f"nothing is known of {path.name}")
    part.rename(path)


def decoded(path: Path = JFK) -> NDArray[np.int16]:
    """Return a file's sound, mono, at 16 kHz."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        frames = [*file.decode(audio=0), None]
        return np.concatenate([piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)])


def repeated(*, every_seconds: float, seconds: int) -> Iterator[NDArray[np.int16]]:
    """Yield the speech again and again, until so many seconds are full."""
    period = int(every_seconds * RATE)
    # Faint noise, as every recording has: silence would be skipped.
    sound = np.random.default_rng(0).integers(-40, 40, period).astype(np.int16)
    speech = decoded()
    sound[: len(speech)] = speech
    left = seconds * RATE
    while left > 0:
        yield sound[:left]
        left -= period


def _write(path: Path, pieces: Iterator[NDArray[np.int16]]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for piece in pieces:
            file.writeframes(piece.tobytes())


def _write_float(path: Path, *, seconds: float, rate: int) -> None:
    speech = np.concatenate(list(repeated(every_seconds=_DENSE_SECONDS, seconds=int(seconds) + 1)))
    at = np.arange(int(seconds * rate)) * (RATE / rate)
    mono = np.interp(at, np.arange(len(speech)), speech).astype(np.float32) / np.float32(32768)
    stereo = np.repeat(mono, 2).tobytes()
    path.write_bytes(_float_header(len(stereo), rate=rate) + stereo)


def _write_silence(path: Path, *, size: int) -> None:
    path.write_bytes(_float_header(size, rate=96_000))
    with path.open("r+b") as file:
        file.truncate(size)


def _float_header(size: int, *, rate: int) -> bytes:
    """Return the header of a stereo 32-bit float WAV file with size bytes of samples (RIFF WAVE)."""
    layout = struct.pack(
        "<HHIIHH", _FLOAT_WAVE, 2, rate, rate * _FLOAT_STEREO_BYTES, _FLOAT_STEREO_BYTES, 8 * _FLOAT_STEREO_BYTES // 2
    )
    chunk = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout
    return b"RIFF" + struct.pack("<I", 36 + size) + chunk + b"data" + struct.pack("<I", size)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
