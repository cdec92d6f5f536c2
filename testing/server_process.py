"""A real server in a process of its own, and how tests wait for facts about it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

T = TypeVar("T")

START_SECONDS = 60
STOP_SECONDS = 40
JOB_SECONDS = 240
"""Deadlines for slow and shared machines; nothing waits that long when all is well."""

Json = dict[str, Any]
Upload = tuple[str, bytes, str]


def wait_until(fact: Callable[[], T | None], what: str, *, seconds: float = JOB_SECONDS) -> T:
    """Return the fact once it is truthy; fail with what was seen last."""
    deadline = time.monotonic() + seconds
    while not (seen := fact()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; seen last: {seen!r}"
        time.sleep(0.03)
    return seen


def upload(path: Path) -> Upload:
    """Return a file as a part of a form: name, content, media type."""
    return path.name, path.read_bytes(), "application/octet-stream"


@dataclass
class ServerProcess:
    """A started server. processes: it and all that came from it, known by the data folder in their environment."""

    process: subprocess.Popen[bytes]
    url: str
    data_dir: Path
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=JOB_SECONDS)

    @property
    def pid(self) -> int:
        return self.process.pid

    def processes(self) -> set[int]:
        """Return the pids that live; a zombie has ended (and has no environment left)."""
        mark = f"WHISPER_DATA_DIR={self.data_dir}".encode()
        return {process.pid for process in psutil.process_iter() if mark in _environment(process.pid)}

    def connect(self) -> socket.socket:
        """Return a bare connection, for what no HTTP client would send."""
        url = httpx.URL(self.url)
        return socket.create_connection((url.host, url.port or 80), timeout=STOP_SECONDS)

    def children(self) -> set[int]:
        """Return all processes of the server but its own."""
        return self.processes() - {self.pid}

    def zygote(self) -> psutil.Process:
        """Return the zygote, waiting for it."""
        [zygote] = wait_until(lambda: _zygotes(self.pid), "a zygote")
        return zygote

    def worker(self) -> psutil.Process:
        """Return the worker, waiting for it."""
        [worker] = wait_until(lambda: _running(self.zygote().children()), "a worker")
        return worker

    def status(self) -> Json:
        return self.client.get("/model/status").raise_for_status().json()

    def wait_for_state(self, state: str) -> Json:
        return wait_until(lambda: found if (found := self.status())["state"] == state else None, f"state {state}")

    def load(self) -> Json:
        return self.client.post("/model/load").raise_for_status().json()

    def unload(self, **query: str) -> httpx.Response:
        return self.client.post("/model/unload", params=query)

    def transcribe(self, path: Path, **fields: str | Sequence[str]) -> httpx.Response:
        """Ask for a transcription and wait for it."""
        return self.client.post("/v1/audio/transcriptions", files={"file": upload(path)}, data=fields)

    def submit(self, path: Path, *, headers: Mapping[str, str] | None = None, **fields: str) -> Json:
        """Queue a job."""
        answer = self.client.post("/jobs", files={"file": upload(path)}, data=fields, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def job(self, job_id: str) -> Json:
        return self.client.get(f"/jobs/{job_id}").raise_for_status().json()

    def wait_for_job(self, job_id: str, *statuses: str) -> Json:
        """Return the job when its status is one of these (none: a final one)."""
        wanted = statuses or ("succeeded", "failed", "cancelled")
        return wait_until(lambda: found if (found := self.job(job_id))["status"] in wanted else None, str(wanted))

    def result(self, job_id: str, kind: str = "json") -> httpx.Response:
        return self.client.get(f"/jobs/{job_id}/result", params={"format": kind})

    def metric_names(self) -> set[str]:
        return {sample.name for sample in self._samples()}

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the series with this name and these labels."""
        return sum(
            sample.value
            for sample in self._samples()
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def kill(self) -> None:
        """SIGKILL the server itself and reap it."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def end(self) -> None:
        """Stop the server as a person would; fail if it does not stop or leaves a process behind."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
            wait_until(lambda: not self.processes(), f"the end of {self.processes()}", seconds=10)
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            self.process.wait(STOP_SECONDS)

    def _samples(self) -> Iterator[Any]:
        text = self.client.get("/metrics").raise_for_status().text
        for family in text_string_to_metric_families(text):
            yield from family.samples


@contextmanager
def running_process(environment: Mapping[str, str], *, data_dir: Path, log: Path) -> Iterator[ServerProcess]:
    """Run a server on a free port until the block ends."""
    port = _free_port()
    command = [sys.executable, "-m", "whisper_inference", "serve"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WHISPER_")}
    settings = {**environment, "WHISPER_PORT": str(port), "WHISPER_DATA_DIR": str(data_dir)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=ours | settings, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    server = ServerProcess(process, f"http://127.0.0.1:{port}", data_dir, log)
    try:
        wait_until(lambda: _lives(server), "/health/live answers", seconds=START_SECONDS)
        yield server
    finally:
        server.end()


def _lives(server: ServerProcess) -> bool:
    assert server.process.poll() is None, f"the server ended: {server.log.read_text()}"
    try:
        return server.client.get("/health/live").is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _zygotes(pid: int) -> list[psutil.Process]:
    return [
        child
        for child in _running(psutil.Process(pid).children())
        if "whisper_inference.worker.zygote" in _words(child)
    ]


def _running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


Launch = Callable[..., AbstractContextManager[ServerProcess]]
"""Runs a server for a block."""
StartServer = Callable[..., ServerProcess]
"""Starts a server that ends with the test."""
