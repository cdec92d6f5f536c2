"""A model's server as a child process: it is given its socket, exits with the gateway, and is always reaped."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from whisper_cluster.pods import Address, Http
from whisper_inference.fleet.settings import GatewaySettings
from whispermodel.catalog import canonical_size
from whispermodel.spec import Spec

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
"""Until the first response: seconds usually, more on a cold disk."""
_STOP_SECONDS = 10.0
"""For a server to end its worker and to close its store; then it is killed."""
_REAP_SECONDS = 30.0
"""For the kernel to end killed processes: a driver may have to free a GPU's memory first."""
_REAP_POLL_SECONDS = 0.01
_MOST_BYTES = 4096
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A model's server that was started."""

    process: asyncio.subprocess.Process
    """The server's own process."""
    address: Address
    """Where it listens, and its key."""
    exited: asyncio.Task[int]
    """Done when the process is reaped; its exit status."""

    async def respond(self, http: Http) -> None:
        """Wait until the server is up. Raises OSError, TimeoutError.

        One request, which waits in the socket's backlog until the server accepts it: nothing is polled.
        """
        async with asyncio.timeout(_START_SECONDS):
            await http.fetch("GET", f"{self.address.url}/health/live", query={}, headers={}, most_bytes=_MOST_BYTES)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Not with the process's own method, which would reap it behind the event loop's back."""
        if not self.exited.done():
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


@asynccontextmanager
async def running_server(settings: Mapping[str, str], folder: Path, *, name: str) -> AsyncGenerator[ServerProcess]:
    """Run a server until the block ends; then it and what came from it are gone and reaped.

    settings: its environment, besides what every process has. folder: for its data. name: in its lines of
    the gateway's log. Raises OSError.
    """
    key = secrets.token_urlsafe(_KEY_BYTES)
    given = {**settings, **await asyncio.to_thread(_prepare, folder, key)}
    with socket.create_server((_HOST, 0)) as listener:
        address = Address(_HOST, key, listener.getsockname()[1])
        process = await _spawn(given, folder, listener=listener.fileno(), name=name)
    server = ServerProcess(process, address, asyncio.create_task(process.wait()))
    try:
        yield server
    finally:
        await _end(server)


def environment_of(spec: Spec, settings: GatewaySettings, *, preload: bool) -> dict[str, str]:
    """Return the settings of the server of one model. preload: load the model at the start."""
    model = spec.model
    values = {
        "WHISPER_MODEL": canonical_size(model.size),
        "WHISPER_ENGINE": model.engine.value,
        "WHISPER_DEVICE": model.device.value if model.device else None,
        "WHISPER_COMPUTE_TYPE": model.compute_type.value if model.compute_type else None,
        "WHISPER_MODEL_PATH": model.source.path if model.source else None,
        "WHISPER_MODEL_SHA256": model.source.sha256 if model.source else None,
        "WHISPER_PRELOAD_MODEL": "true" if preload else "false",
        "WHISPER_CACHE_DIR": str(settings.cache_dir.absolute()),
        "WHISPER_MAX_AUDIO_SECONDS": str(settings.max_audio_seconds),
    }
    return {name: value for name, value in values.items() if value is not None}


def _prepare(folder: Path, key: str) -> dict[str, str]:
    """Make the server's folder with a file for its key, which nobody but this gateway knows."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = folder / "keys.yaml"
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys.write_text(json.dumps([{"name": "gateway", "sha256": digest, "scopes": ["operator"]}]))
    return {"WHISPER_DATA_DIR": str((folder / "data").absolute()), "WHISPER_API_KEYS_FILE": str(keys.absolute())}


async def _spawn(settings: Mapping[str, str], folder: Path, *, listener: int, name: str) -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("WHISPER_")}
    command = ("serve", "--listener", str(listener), "--parent", str(os.getpid()), "--log-name", name)
    return await asyncio.create_subprocess_exec(
        # -P: the working directory holds data, not modules.
        *(sys.executable, "-P", "-m", "whisper_inference", *command),
        env={**inherited, **settings},
        # A file .env of the gateway's is not the server's.
        cwd=folder,
        pass_fds=(listener,),
        stdin=asyncio.subprocess.DEVNULL,
        # Ctrl-C on a terminal ends the gateway, and that its servers. The session also marks what came from them.
        start_new_session=True,
    )


async def _end(server: ServerProcess) -> None:
    server.signal(signal.SIGTERM)
    # Not cancelled by the deadline: it reaps the process.
    await asyncio.wait({server.exited}, timeout=_STOP_SECONDS)
    server.signal(signal.SIGKILL)
    await server.exited
    async with asyncio.timeout(_REAP_SECONDS):
        while await asyncio.to_thread(_reap_session, server.process.pid):  # noqa: ASYNC110 (the kernel sends no event)
            await asyncio.sleep(_REAP_POLL_SECONDS)


def _reap_session(leader: int) -> bool:
    """Kill and reap what a server left behind if it was killed: the kernel made it ours (adopt_orphans).

    Return whether any process is left.
    """
    left = False
    for pid in _members(leader):
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            left = os.waitpid(pid, os.WNOHANG)[0] == 0 or left
    return left


def _members(session: int) -> list[int]:
    """Return this process's children of a session (proc(5): stat has the parent as field 4, the session as 6)."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[1] == str(os.getpid()) and fields[3] == str(session):
                    found.append(int(folder.name))
    return found
