"""Startup time: until the port is open, and until the first text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from time import perf_counter

from benchmarks.audio import SPEECH
from benchmarks.bench_run import BenchRun, import_times
from benchmarks.measure import Finding, Runs, at_most

NAME = "startup"
TITLE = "Start of the server"
_RUNS = 7


def run(bench: BenchRun) -> Generator[Finding]:
    """Start servers with the default settings, which preload the model, and send speech once the port is open."""
    opened: list[float] = []
    heard: list[float] = []
    for _ in range(bench.runs(_RUNS)):
        with bench.server(PRELOAD_MODEL="true") as client:
            client.transcribe(SPEECH)
            heard.append(perf_counter() - client.server.started_at)
            opened.append(client.server.open_seconds)
    raw = Runs.of("until the port is open", "s", opened)
    yield Finding("start → port open", raw.median, "s", at_most(1), (raw,), _imports())
    text = Runs.of("until the text", "s", heard)
    yield Finding("start → first text (11 s of speech, tiny.en)", text.median, "s", at_most(4), (text,))


def _imports() -> str:
    """Return a summary of the API process' imports by package."""
    command = [sys.executable, "-X", "importtime", "-c", "import whisper_inference.main"]
    times = import_times(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr)
    parts = ", ".join(f"{package} {seconds:.2f}" for package, seconds in list(times.items())[:8])
    return f"imports under -X importtime {sum(times.values()):.2f} s, by package: {parts}"
