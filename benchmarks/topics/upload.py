"""An upload of 1 GB: the API process passes it on and holds none of it."""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.audio import SPEECH, upload_of_1_gb, upload_of_10_mb
from benchmarks.measure import MIB, Finding, Runs, Watch, at_most, timed
from benchmarks.scene import Scene
from whisper_inference.worker.resident import resident_of

NAME = "upload"
TITLE = "Memory of the API process over an upload of 1 GB"
_LOOK_SECONDS = 0.02


def run(scene: Scene) -> Generator[Finding]:
    """Submit a job of 1 GB and watch the API process meanwhile."""
    audio = upload_of_10_mb(scene.audio) if scene.quick else upload_of_1_gb(scene.audio)
    with scene.server() as client:
        client.transcribe(SPEECH)
        before = resident_of(client.server.pid).resident / MIB
        with (
            Watch(lambda: resident_of(client.server.pid).resident / MIB, _LOOK_SECONDS) as watch,
            audio.open("rb") as file,
        ):
            seconds, answer = timed(lambda: client.http.post("/jobs", files={"file": (audio.name, file)}))
        answer.raise_for_status()
        client.http.delete(f"/jobs/{answer.json()['id']}").raise_for_status()
    grown = max(watch.values) - before
    raw = (Runs.of("before", "MiB", [before]), Runs.of("most held", "MiB", [max(watch.values)]))
    size = audio.stat().st_size
    note = f"{size / 1e9:.2f} GB accepted in {seconds:.1f} s, looked at {len(watch.values)} times"
    yield Finding("API process over an upload of 1 GB: grows by", grown, "MiB", at_most(20), raw, note)
