"""A short-lived child that says what an uploaded file is.

Called as `python -m whisper_inference.audio.probe_child PATH --max-seconds N`. Prints one JSON line:
{"seconds": 11.0}, or {"error": {"code": ..., "params": {...}}}. The file is demuxed to its end, and
only its first packets are decoded.
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
    """Print the facts or the error of the file that the arguments name."""
    _confine()
    path, _, limit = arguments
    try:
        answer: object = _facts(Path(path), max_audio_seconds=float(limit))
    except ServiceError as error:
        answer = {"error": {"code": error.code, "params": error.params}}
    except MemoryError:
        damaged = AudioDamaged(reason="reading it takes more memory than any sound does")
        answer = {"error": {"code": damaged.code, "params": damaged.params}}
    print(json.dumps(answer), flush=True)
    return 0


def _facts(path: Path, *, max_audio_seconds: float) -> dict[str, float]:
    # Imported under the limits: it is FFmpeg's code that must be confined.
    from whisper_inference.audio.demuxer import Tally, frames, opened, refuse_damaged, refuse_longer

    tally = Tally()
    with opened(path, max_audio_seconds=max_audio_seconds) as audio:
        for _ in frames(audio, tally=tally, max_packets=_DECODED_PACKETS):
            pass
        seconds = tally.demuxed_seconds or audio.seconds or 0.0
        refuse_longer(seconds, max_audio_seconds)
        refuse_damaged(audio, tally=tally, seconds=seconds)
        return {"seconds": round(seconds, 3)}


def _confine() -> None:
    die_with_parent(os.getppid())
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # a flood of uploads must not slow the transcription that runs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
