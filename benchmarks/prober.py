"""Probe the server's health endpoint from a dedicated process: `python -m benchmarks.prober HOST PORT`.

A thread in the process that sends the audio would wait for the interpreter lock, which would count as server latency.
"""

from __future__ import annotations

import http.client
import selectors
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVERY_SECONDS = 0.1
_PATH = "/health/live"
_TIMEOUT_SECONDS = 10


@contextmanager
def probing(host: str, port: int) -> Generator[list[float]]:
    """Probe at 10 Hz until the block ends; the list then has the duration of each probe in milliseconds."""
    command = [sys.executable, "-m", "benchmarks.prober", host, str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen: list[float] = []
    try:
        yield seen
        lines, _ = process.communicate("end", timeout=_TIMEOUT_SECONDS)
        seen += [float(line) for line in lines.splitlines()]
    finally:
        process.kill()
        process.wait(_TIMEOUT_SECONDS)


def probe(host: str, port: int) -> None:
    """Print the milliseconds of each probe until stdin ends, except the first, which opens the connection."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    _ask(connection)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not selector.select(EVERY_SECONDS):
            sys.stdout.write(f"{_ask(connection):.3f}\n")


def _ask(connection: http.client.HTTPConnection) -> float:
    began = time.perf_counter()
    connection.request("GET", _PATH)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise SystemExit(f"{_PATH} answered {answer.status}")
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    probe(sys.argv[1], int(sys.argv[2]))
