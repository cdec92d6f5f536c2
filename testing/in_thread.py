"""Runs a second event loop in a thread, for servers that must respond while a test blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_TIMEOUT_SECONDS = 30


@contextmanager
def in_thread(serve: Callable[[threading.Event], Coroutine[Any, Any, None]], *, name: str) -> Iterator[None]:
    """Run a coroutine in a thread, and cancel it at the end of the block; it sets the event once it is ready."""
    ready = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        await serve(ready)

    def run() -> None:
        # asyncio.run also cancels the tasks that the coroutine left behind.
        with suppress(asyncio.CancelledError):
            asyncio.run(main())

    thread = threading.Thread(target=run, name=name)
    thread.start()
    assert ready.wait(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        loop, task = running[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(_TIMEOUT_SECONDS)
