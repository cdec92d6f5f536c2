"""The start of the server: until its port is open, and until the first text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from time import perf_counter

from benchmarks.audio import SPEECH
from benchmarks.measure import Finding, Runs, at_most
from benchmarks.scene import Scene, import_times

NAME = "startup"
TITLE = "Start of the server"
_RUNS = 7


def run(scene: Scene) -> Generator[Finding]:
    """Start servers with the default settings, which load at once, and send speech as soon as the port is open."""
    opened: list[float] = []
    heard: list[float] = []
    for _ in range(scene.runs(_RUNS)):
        with scene.server(PRELOAD_MODEL="true") as client:
            client.transcribe(SPEECH)
            heard.append(perf_counter() - client.server.started_at)
            opened.append(client.server.open_seconds)
    raw = Runs.of("until the port is open", "s", opened)
    yield Finding("start → port open", raw.median, "s", at_most(1), (raw,), _imports())
    text = Runs.of("until the text", "s", heard)
    yield Finding("start → first text (11 s of speech, tiny.en)", text.median, "s", at_most(4), (text,))


def _imports() -> str:
    """Say what the imports of the API process consist of."""
    command = [sys.executable, "-X", "importtime", "-c", "import whisper_inference.main"]
    times = import_times(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr)
    parts = ", ".join(f"{package} {seconds:.2f}" for package, seconds in list(times.items())[:8])
    return f"imports under -X importtime {sum(times.values()):.2f} s, by package: {parts}"
