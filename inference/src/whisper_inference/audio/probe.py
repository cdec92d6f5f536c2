"""Probes an uploaded file in a sandboxed child process: the API process itself never parses audio."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike, fspath

from whisper_inference.errors import AudioDamaged, Param, error_of

_MAX_CONCURRENT = 2
_MAX_OUTPUT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a probe found: the duration in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AudioProbe:
    """Probes files, at most two at a time: each occupies a core for a moment."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_CONCURRENT))

    async def run(self, path: str | PathLike[str], *, max_seconds: float, timeout: float) -> AudioInfo:
        """Return the duration of an audio file.

        timeout: seconds from the child's start; the wait for a slot is bounded by the probes before it. Raises
        NotAudio, AudioDamaged (also if the child crashes or times out) or AudioTooLong.
        """
        async with self.slots:
            child = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "whisper_inference.audio.probe_child",
                    fspath(path),
                    "--max-seconds",
                    str(max_seconds),
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_MAX_OUTPUT_BYTES,
            )
            try:
                output = await asyncio.wait_for(_read_output(child), timeout)
            except TimeoutError as error:
                raise AudioDamaged(reason=f"reading it timed out after {timeout:g} s") from error
            finally:
                await _kill(child)
        return _parse_output(output, returncode=child.returncode)


async def _read_output(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    output = await child.stdout.readline()
    await child.wait()
    return output


async def _kill(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()  # no deadline: a process cannot ignore SIGKILL


def _parse_output(output: bytes, *, returncode: int | None) -> AudioInfo:
    try:
        found = json.loads(output)
    except ValueError as error:
        raise AudioDamaged(reason=f"the process reading it exited with status {returncode}") from error
    if "error" in found:
        params: dict[str, Param] = found["error"]["params"]
        raise error_of(found["error"]["code"], params)
    return AudioInfo(seconds=found["seconds"])
