"""The server against the engine called directly: what all the processes in between cost."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import SPEECH, dense
from benchmarks.library import THREADS_SLEEP, library
from benchmarks.measure import Finding, Runs, at_most
from benchmarks.scene import ENGINES, PATHS, Scene

NAME = "throughput"
TITLE = "150 s of speech: the server against the engine called directly"
_SECONDS = 150
_RUNS = 5


def run(scene: Scene) -> Generator[Finding]:
    """Transcribe in turn with both, loaded, with the same niceness, threads and way of waiting."""
    for engine in ENGINES:
        yield _compared(scene, engine)


def _compared(scene: Scene, engine: str) -> Finding:
    audio = dense(scene.audio, 23 if scene.quick else _SECONDS)
    model = str(PATHS[engine])
    through: list[float] = []
    directly: list[float] = []
    with scene.server(engine) as client, library(engine, **THREADS_SLEEP) as direct:
        client.transcribe(SPEECH)
        answer, text = direct.ask("transcribe", model=model, audio=str(SPEECH)), ""
        for _ in range(scene.runs(_RUNS)):
            answer = direct.ask("transcribe", model=model, audio=str(audio))
            directly.append(float(answer["seconds"]))
            seconds, text = client.transcribe(audio)
            through.append(seconds)
    raw = (Runs.of("server", "s", through), Runs.of("direct", "s", directly))
    note = "texts equal" if text.strip() == str(answer["text"]).strip() else "texts differ"
    return Finding(f"{engine}: server ÷ direct", raw[0].median / raw[1].median, "", at_most(1.05), raw, note)
