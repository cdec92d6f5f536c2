"""Run a real server process for the demo and the benchmarks, measure its memory, and stop it reliably."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from whisper_inference.worker.resident import NOTHING, Resident, resident_of

HOST = "127.0.0.1"
OPEN_SECONDS = 30.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.002
_ZYGOTE_MODULE = "whisper_inference.worker.zygote"


class ServerFailed(Exception):
    """The server did not start, or exited; the message has the reason and the end of its log."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The memory of a server's process tree."""

    api: Resident
    """The API process."""
    zygote: Resident
    """The process that has the engine imported; NOTHING if there is none."""
    worker: Resident
    """The process that holds the model; NOTHING if there is none."""
    processes: int
    """The number of processes."""

    @property
    def total(self) -> Resident:
        """The sum over all processes."""
        return self.api + self.zygote + self.worker


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that accepts connections."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    """The file with its output."""
    started_at: float
    """When it was started, from time.perf_counter()."""
    open_seconds: float
    """How long it took from its start until it accepted connections."""

    @property
    def pid(self) -> int:
        """The pid of the API process."""
        return self.process.pid

    def pids(self) -> dict[str, int]:
        """Return the pids of the current processes by role: api, zygote, worker."""
        found = {"api": self.pid}
        for child in psutil.Process(self.pid).children(recursive=True):
            try:
                is_zygote = _ZYGOTE_MODULE in child.cmdline() and child.ppid() == self.pid
                found["zygote" if is_zygote else "worker"] = child.pid
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self) -> None:
        """End the process with SIGKILL. Raises ServerFailed if any of its children outlives it."""
        children = _children(self.process)
        self.process.kill()
        self.process.wait(_STOP_SECONDS)
        if left := _alive_after(children, seconds=_STOP_SECONDS):
            raise ServerFailed(f"the killed server left processes behind: {[child.pid for child in left]}")

    def measure_memory(self) -> Tree:
        """Return the current memory of the processes."""
        pids = self.pids()
        held = {role: resident_of(pid) for role, pid in pids.items()}
        return Tree(held["api"], held.get("zygote", NOTHING), held.get("worker", NOTHING), len(pids))


@contextmanager
def serving(
    settings: Mapping[str, str],
    folder: Path,
    *,
    command: str = "serve",
    port: int | None = None,
    wait: Callable[[], None] | None = None,
) -> Generator[ServerProcess]:
    """Run a server until the block ends, and make sure that none of its processes is left.

    settings: by name without the prefix WHISPER_; WHISPER_ variables of this process are ignored. folder: for the
    server's files. command: serve or gateway. port: None uses a free port. wait: called between attempts to connect;
    None sleeps for 2 ms. Raises ServerFailed.
    """
    chosen = free_port() if port is None else port
    _require_free(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    given = {"HOST": HOST, "PORT": str(chosen), "DATA_DIR": str(folder / "data")} | dict(settings)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WHISPER_")}
    started_at = time.perf_counter()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "whisper_inference", command],
            cwd=folder,  # ignore a .env file in the caller's working directory
            env=environ | {f"WHISPER_{name}": value for name, value in given.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until_open(process, chosen, log=log, wait=wait or (lambda: time.sleep(_POLL_SECONDS)))
        opened = time.perf_counter() - started_at
        yield ServerProcess(process, f"http://{HOST}:{chosen}", log, started_at, opened)
    finally:
        _stop(process)


def free_port() -> int:
    """Return a TCP port that is currently free."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerFailed(
                f"port {port} is not available ({error.strerror}): stop the program that uses it, or choose another"
            ) from None


def _wait_until_open(process: subprocess.Popen[bytes], port: int, *, log: Path, wait: Callable[[], None]) -> None:
    deadline = time.monotonic() + OPEN_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"the server exited with status {process.returncode}:\n{tail(log)}")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            wait()
        else:
            return
    raise ServerFailed(f"the server did not accept connections within {OPEN_SECONDS:g} s:\n{tail(log)}")


def tail(log: Path, lines: int = 10) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and its children. Raises ServerFailed if a child outlives it, after killing that child."""
    children = _children(process)
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)
    left = _alive_after(children, seconds=1)
    for child in left:
        child.kill()
    if left:
        raise ServerFailed(f"the server left processes behind: {[child.pid for child in left]}")


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _alive_after(processes: list[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Return the processes that are still running after some seconds; zombies do not count."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
