"""Send GET requests at a steady rate from a process of its own: `python -m benchmarks.gateway_bench.requester ...`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 60


def at_a_steady_rate(url: str, key: str, *, per_second: int, seconds: float) -> Sequence[float]:
    """Return the milliseconds of each request, from the instant at which it was due."""
    command = [sys.executable, "-m", "benchmarks.gateway_bench.requester", url, key, str(per_second), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True)
    return [float(line) for line in done.stdout.splitlines()]


async def _main(url: str, key: str, *, per_second: int, seconds: float) -> None:
    took: list[float] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        # The first ones open the connections.
        await asyncio.gather(*(_send(session, url, time.perf_counter()) for _ in range(20)))
        began = time.perf_counter()
        tasks: list[asyncio.Task[float]] = []
        for number in range(int(per_second * seconds)):
            due = began + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(_send(session, url, due)))
        took += await asyncio.gather(*tasks)
    print("\n".join(f"{one:.3f}" for one in took))


async def _send(session: aiohttp.ClientSession, url: str, due: float) -> float:
    async with session.get(url) as answer:
        await answer.read()
        answer.raise_for_status()
    return 1000 * (time.perf_counter() - due)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], per_second=int(sys.argv[3]), seconds=float(sys.argv[4])))
