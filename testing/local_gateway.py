"""A gateway to the models of a folder, as a process, with the servers that it starts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from testing.child_process import ChildProcess
from testing.server_process import JOB_SECONDS, START_SECONDS, STOP_SECONDS, Json, upload, wait_until
from whispermodel.spec import API_VERSION, KIND


def manifest(name: str, **spec: Any) -> Json:
    """Return a WhisperModel."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


@dataclass
class LocalGateway(ChildProcess):
    """One gateway, which can be killed and restarted on the same data."""

    folder: Path
    """Its data, its models and its log."""
    weights: Mapping[str, Path]
    """The checkpoint of tiny.en by engine."""
    port: int
    """Where it listens."""
    environment: dict[str, str] = field(default_factory=dict)
    """Its settings."""
    stop_seconds: float = STOP_SECONDS
    """How long its end may take."""

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    def client(self) -> httpx.Client:
        url = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=url, timeout=JOB_SECONDS, trust_env=False)

    def declare(self, name: str, engine: str = "faster-whisper", **spec: Any) -> Path:
        """Write the file of a model with tiny.en."""
        model = {"size": "tiny.en", "engine": engine, "source": {"path": str(self.weights[engine])}}
        return self.write(name, manifest(name, **{"model": model, **spec}))

    def write(self, file: str, document: Json) -> Path:
        """Write a file of the folder at once, as an editor does that renames."""
        self.models.mkdir(parents=True, exist_ok=True)
        path = self.models / f"{file}.json"
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(document))
        partial.replace(path)
        return path

    def start(self) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("WHISPER_")}
        settings = {
            "WHISPER_PORT": str(self.port),
            "WHISPER_DATA_DIR": str(self.data),
            "WHISPER_CACHE_DIR": str(self.folder / "cache"),
            **self.environment,
        }
        command = ["whisper_inference", "gateway", "--model-file", str(self.models)]
        self.spawn(*command, environment=ours | settings, log=self.log, cwd=self.folder)
        wait_until(self._is_ready, "the gateway is ready", seconds=START_SECONDS)

    def _is_ready(self) -> bool:
        assert self.is_running, self.log.read_text()
        try:
            with self.client() as client:
                return client.get("/health/ready").is_success
        except httpx.TransportError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop the gateway and wait until none of its processes is left; return its exit status."""
        status = super().stop(how)
        wait_until(lambda: not self.servers(), "the servers' end", seconds=10)
        return status

    def servers(self) -> dict[str, list[int]]:
        """Return the pids of what runs for each model, known by the data folder in their environment."""
        found: dict[str, list[int]] = {}
        for process in psutil.process_iter():
            mark = f"WHISPER_DATA_DIR={self.data}/servers/"
            for entry in _environment(process.pid):
                if entry.startswith(mark):
                    found.setdefault(entry.removeprefix(mark).split("/")[0], []).append(process.pid)
        return found

    def transcribe(self, path: Path, *, model: str) -> httpx.Response:
        """Ask for a transcription and wait for it."""
        with self.client() as client:
            return client.post("/v1/audio/transcriptions", files={"file": upload(path)}, data={"model": model})

    def submit(self, path: Path, *, model: str) -> str:
        """Queue a job, and return its id."""
        with self.client() as client:
            answer = client.post("/jobs", files={"file": upload(path)}, data={"model": model})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, job_id: str) -> Json:
        with self.client() as client:
            return client.get(f"/jobs/{job_id}").raise_for_status().json()

    def wait_for_job(self, job_id: str) -> Json:
        """Return the job when it is final."""
        final = ("succeeded", "failed", "cancelled")
        return wait_until(lambda: found if (found := self.job(job_id))["status"] in final else None, f"job {job_id}")

    def status(self, model: str) -> Json:
        """Return a model's status."""
        with self.client() as client:
            return client.get(f"/models/{model}/model/resource").raise_for_status().json()["status"]

    def wait_for(self, model: str, **fields: str) -> Json:
        """Return a model's status once it has these values."""
        return wait_until(
            lambda: found if fields.items() <= (found := self.status(model)).items() else None, f"{model} {fields}"
        )


@contextmanager
def running_local_gateway(gateway: LocalGateway) -> Iterator[LocalGateway]:
    """Run a gateway until the block ends; print its log for pytest's report, and leave no process."""
    gateway.start()
    try:
        yield gateway
    finally:
        if gateway.is_running:
            gateway.stop()
        left = gateway.servers()
        print(gateway.log.read_text())
        for pid in (pid for pids in left.values() for pid in pids):
            os.kill(pid, signal.SIGKILL)
        assert not left


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
