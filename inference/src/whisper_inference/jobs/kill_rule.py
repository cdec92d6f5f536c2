"""When an executor that does not stop a cancelled job is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from whisper_inference.execution import Slot

CANCEL_SECONDS = 10.0
"""How long a worker may take to stop a cancelled job before it is killed: one window of 30 s of audio on a slow CPU."""


async def kill_if_unresponsive(slot: Slot, *, is_running: Callable[[], bool], seconds: float) -> None:
    """Kill the executor of a cancelled job that is still running after some seconds."""
    await asyncio.sleep(seconds)
    if is_running():
        slot.kill("cancelled", "did not stop a cancelled job")
