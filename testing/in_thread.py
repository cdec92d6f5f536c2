"""An event loop beside the test's own, for what must go on while a test waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

START_SECONDS = 30


@contextmanager
def in_thread(serve: Callable[[threading.Event], Coroutine[Any, Any, None]], *, name: str) -> Iterator[None]:
    """Run a coroutine in a thread until the block ends, which cancels it; it sets the event once it serves."""
    ready = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        await serve(ready)

    def turn() -> None:
        # asyncio.run also ends what the coroutine has begun and left.
        with suppress(asyncio.CancelledError):
            asyncio.run(main())

    thread = threading.Thread(target=turn, name=name)
    thread.start()
    assert ready.wait(START_SECONDS)
    try:
        yield
    finally:
        loop, task = running[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(START_SECONDS)
