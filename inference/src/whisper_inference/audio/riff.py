"""What a WAV file's header declares, for the one check that FFmpeg does not make: is the sound all there?"""

from __future__ import annotations

import struct
from pathlib import Path

_STREAMED_FROM = 0x7FFF_F000
"""Declared sizes from here up, and 0, mean: written to a pipe, length unknown (SoX writes this, FFmpeg 2**32 - 1)."""

_MAX_CHUNKS = 64


def missing_wav_bytes(path: Path) -> int:
    """Return how many bytes of the declared data chunk the file lacks; 0 when it says nothing usable.

    Format: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (RIFF WAVE).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return 0
        at = 12
        for _ in range(_MAX_CHUNKS):
            file.seek(at)
            header = file.read(8)
            if len(header) < 8:
                return 0
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                return 0 if length == 0 or length >= _STREAMED_FROM else max(0, at + 8 + length - size)
            at += 8 + length + length % 2
    return 0
