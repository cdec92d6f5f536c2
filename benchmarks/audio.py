"""Audio files for the benchmarks, created on demand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testing.paths import JFK, ROOT

SPEECH = JFK
_MAKE_SECONDS = 120


def dense(folder: Path, seconds: int) -> Path:
    """Return a WAV file with 11 s of speech in every 20 s."""
    return _made(folder, f"dense-{seconds}.wav")


def sparse(folder: Path, seconds: int) -> Path:
    """Return a WAV file with 11 s of speech in every minute: as much memory as dense speech, but less time."""
    return _made(folder, f"sparse-{seconds}.wav")


def upload_of_10_mb(folder: Path) -> Path:
    """Return 28.3 s of speech as 44.1 kHz stereo float WAV: 10 MB, one Whisper window."""
    return _made(folder, "upload-10mb.wav")


def upload_of_100_mb(folder: Path) -> Path:
    """Return a WAV file with 100 MB of silence, as a sparse file."""
    return _made(folder, "upload-100mb.wav")


def upload_of_1_gb(folder: Path) -> Path:
    """Return a WAV file with 1 GB of silence, as a sparse file."""
    return _made(folder, "upload-1gb.wav")


def _made(folder: Path, name: str) -> Path:
    """Create a file in a separate process: numpy in this one would share pages with the measured server."""
    path = folder / name
    if not path.exists():
        command = [sys.executable, "-m", "testing.long_audio", str(path)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=_MAKE_SECONDS)
    return path
