"""The environment of a benchmark run: a folder, and real servers with clients."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.measure import timed
from tools.server_process import ServerProcess, serving
from tools.weights import CHECKPOINT, CT2_FOLDER

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "var" / "models"
PATHS = {"openai-whisper": MODELS / CHECKPOINT, "faster-whisper": MODELS / CT2_FOLDER}
ENGINES = tuple(PATHS)
_ANSWER_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One run of benchmarks."""

    folder: Path
    """For files that benchmarks create."""
    quick: bool = False
    """Whether to run few repetitions, to check that everything works."""
    keep: bool = False
    """Whether to keep the large random checkpoint."""

    def runs(self, count: int) -> int:
        """Return the number of repetitions, which is lower in a quick run."""
        return min(count, 2) if self.quick else count

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def audio(self) -> Path:
        """Return the folder for audio."""
        folder = self.folder / "audio"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def server(self, engine: str = "openai-whisper", **settings: str) -> Generator[Client]:
        """Run a server with tiny.en, not loaded, with new files but a shared cache of converted weights."""
        given = {"MODEL": "tiny.en", "ENGINE": engine, "MODEL_PATH": str(PATHS[engine]), "PRELOAD_MODEL": "false"}
        folder = self.folder / "servers" / f"{time.time_ns()}"
        with (
            serving(given | {"CACHE_DIR": str(self.cache)} | settings, folder) as server,
            httpx.Client(base_url=server.url, timeout=_ANSWER_SECONDS, trust_env=False) as http,
        ):
            yield Client(server, http)
        shutil.rmtree(folder)  # kept after a failure, with the server's log


@dataclass(frozen=True, slots=True)
class Client:
    """A client of a server."""

    server: ServerProcess
    http: httpx.Client

    def load(self) -> tuple[float, dict[str, float]]:
        """Load the model; return the seconds that the client waited, and the phases from the receipt."""
        seconds, answer = timed(lambda: self.http.post("/model/load"))
        answer.raise_for_status()
        return seconds, {"total": answer.json()["load_seconds"], **answer.json()["phases"]}

    def unload(self, depth: str) -> float:
        """Unload the model; return the seconds that the client waited."""
        seconds, answer = timed(lambda: self.http.post("/model/unload", params={"depth": depth}))
        answer.raise_for_status()
        assert answer.status_code == 200, answer.text
        return seconds

    def transcribe(self, audio: Path, name: str | None = None) -> tuple[float, str]:
        """Transcribe audio; return the seconds that the client waited, and the text."""
        with audio.open("rb") as file:
            seconds, answer = timed(
                lambda: self.http.post("/v1/audio/transcriptions", files={"file": (name or audio.name, file)})
            )
        answer.raise_for_status()
        return seconds, str(answer.json()["text"])


def import_times(stderr: str) -> dict[str, float]:
    """Return the import time of each top-level package in seconds, without its imports (python -X importtime)."""
    times: dict[str, float] = {}
    for match in re.finditer(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)", stderr, flags=re.MULTILINE):
        microseconds, package = int(match[1]), match[2]
        times[package] = times.get(package, 0.0) + microseconds / 1e6
    return dict(sorted(times.items(), key=lambda item: -item[1]))
