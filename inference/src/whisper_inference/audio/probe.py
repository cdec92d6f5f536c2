"""What an uploaded file is, found out by a confined child process: the API process itself never parses audio."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike, fspath

from whisper_inference.errors import AudioDamaged, Param, error_of

_AT_ONCE = 2
_MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What a probe found."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AudioProbe:
    """Probes files, at most two at once: each takes a core for a moment."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def facts(self, path: str | PathLike[str], *, max_seconds: float, timeout: float) -> AudioFacts:
        """Return what the file is.

        timeout: seconds from the child's start; the wait for a slot is bounded by the probes before it. Raises
        NotAudio, AudioDamaged (also for a child that dies or takes too long) or AudioTooLong.
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
                limit=_MAX_ANSWER_BYTES,
            )
            try:
                answer = await asyncio.wait_for(_answer(child), timeout)
            except TimeoutError as error:
                raise AudioDamaged(reason=f"reading it took longer than {timeout:g} s") from error
            finally:
                await _end(child)
        return _facts_in(answer, returncode=child.returncode)


async def _answer(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    answer = await child.stdout.readline()
    await child.wait()
    return answer


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()  # no deadline: SIGKILL cannot be refused


def _facts_in(answer: bytes, *, returncode: int | None) -> AudioFacts:
    try:
        found = json.loads(answer)
    except ValueError as error:
        raise AudioDamaged(reason=f"its reader ended with status {returncode}") from error
    if "error" in found:
        params: dict[str, Param] = found["error"]["params"]
        raise error_of(found["error"]["code"], params)
    return AudioFacts(seconds=found["seconds"])
