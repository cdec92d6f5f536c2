"""Compares the size declared in a WAV file's header with the file: FFmpeg does not check it."""

from __future__ import annotations

import struct
from pathlib import Path

_MIN_UNKNOWN_LENGTH = 0x7FFF_F000
"""Declared sizes from here up, and 0, mean: written to a pipe, length unknown (SoX writes this, FFmpeg 2**32 - 1)."""

_MAX_CHUNKS = 64


def missing_data_bytes(path: Path) -> int:
    """Return how many bytes of the declared data chunk are missing; 0 if the header declares no usable size.

    Format: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (RIFF WAVE).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return 0
        offset = 12
        for _ in range(_MAX_CHUNKS):
            file.seek(offset)
            header = file.read(8)
            if len(header) < 8:
                return 0
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                return 0 if length == 0 or length >= _MIN_UNKNOWN_LENGTH else max(0, offset + 8 + length - size)
            offset += 8 + length + length % 2
    return 0
