"""A short-lived child process that validates an uploaded file and measures its duration.

Called as `python -m whisper_inference.audio.probe_child PATH --max-seconds N`. Prints one JSON line:
{"seconds": 11.0}, or {"error": {"code": ..., "params": {...}}}. Demuxes the whole file, but decodes only its first
packets.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from whisper_inference.errors import AudioDamaged, ServiceError
from whisper_inference.parentage import die_with_parent

_ADDRESS_BYTES = 2**30
_CPU_SECONDS = 60
_DECODED_PACKETS = 8


def main(arguments: list[str]) -> int:
    """Print the duration or the error of the file that the arguments name."""
    _sandbox()
    path, _, limit = arguments
    try:
        output: object = _probe(Path(path), max_audio_seconds=float(limit))
    except ServiceError as error:
        output = {"error": {"code": error.code, "params": error.params}}
    except MemoryError:
        damaged = AudioDamaged(reason="reading it takes more memory than any valid audio needs")
        output = {"error": {"code": damaged.code, "params": damaged.params}}
    print(json.dumps(output), flush=True)
    return 0


def _probe(path: Path, *, max_audio_seconds: float) -> dict[str, float]:
    # Imported once the limits apply: FFmpeg is the code that needs them.
    from whisper_inference.audio.demuxer import DecodeStats, check_complete, check_length, decode_frames, open_audio

    stats = DecodeStats()
    with open_audio(path, max_audio_seconds=max_audio_seconds) as audio:
        for _ in decode_frames(audio, stats=stats, max_packets=_DECODED_PACKETS):
            pass
        seconds = stats.demuxed_seconds or audio.seconds or 0.0
        check_length(seconds, max_audio_seconds)
        check_complete(audio, stats=stats, seconds=seconds)
        return {"seconds": round(seconds, 3)}


def _sandbox() -> None:
    die_with_parent(os.getppid())
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # many uploads at once must not slow down a running transcription


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
