"""The audio that benchmarks send: its names, and where it lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testing.paths import JFK, ROOT

SPEECH = JFK
_MAKE_SECONDS = 120


def dense(folder: Path, seconds: int) -> Path:
    """Return a WAV file that speaks for 11 s of each 20."""
    return _made(folder, f"dense-{seconds}.wav")


def sparse(folder: Path, seconds: int) -> Path:
    """Return a WAV file that speaks for 11 s of each minute: it takes as much memory as dense speech, and less time."""
    return _made(folder, f"sparse-{seconds}.wav")


def upload_of_10_mb(folder: Path) -> Path:
    """Return 28.3 s of speech as 44.1 kHz stereo float WAV: 10 MB, and one window of Whisper's."""
    return _made(folder, "upload-10mb.wav")


def upload_of_1_gb(folder: Path) -> Path:
    """Return a WAV file of 1 GB, all silence: a sparse file, which takes no disk."""
    return _made(folder, "upload-1gb.wav")


def _made(folder: Path, name: str) -> Path:
    """Make a file in a process of its own: numpy here would share its pages with the server that is weighed."""
    path = folder / name
    if not path.exists():
        command = [sys.executable, "-m", "testing.long_audio", str(path)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=_MAKE_SECONDS)
    return path
