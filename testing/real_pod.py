"""The real transcription server of a pod, with the Deployment's environment, on the pod's address."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

START_SECONDS = 60
STOP_SECONDS = 280
"""A kubelet waits for an hour; a test cannot."""

Json = dict[str, Any]


@dataclass
class RealPod:
    """A pod's server. Folders of the test take the place of volumes."""

    address: str
    folder: Path
    environment: dict[str, str]
    in_flight: int = 0
    calls: list[str] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    @classmethod
    def of(cls, pod: Json, address: str, *, folder: Path, digests: dict[str, str]) -> RealPod:
        """Return the server that a pod's container describes."""
        [container] = pod["spec"]["containers"]
        home = folder / pod["metadata"]["name"]
        home.mkdir()
        keys = home / "keys.yaml"
        keys.write_text(json.dumps([{"name": s, "sha256": d, "scopes": [s]} for d, s in digests.items()]))
        given = {entry["name"]: entry["value"] for entry in container["env"]}
        here = {
            "WHISPER_HOST": address,
            "WHISPER_DATA_DIR": str(home / "data"),
            "WHISPER_CACHE_DIR": str(folder / "cache"),
            "WHISPER_API_KEYS_FILE": str(keys),
        }
        return cls(address, home, given | here)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.environment['WHISPER_PORT']}"

    async def start(self) -> None:
        """Start the server and wait for its startup probe."""
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "whisper_inference", "serve"]
            environment = {**os.environ, **self.environment}
            self.process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client, asyncio.timeout(START_SECONDS):
            while not await _is_well(client, "/health/startup"):  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Stop the server as the kubelet does, and wait until its work is done."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()

    async def kill(self) -> None:
        """End the server as a crash does; it can be started again."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def pause(self) -> None:
        """Stop the server's process, but not its worker."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server continue."""
        self._signal(signal.SIGCONT)

    def kill_workers(self) -> None:
        """Kill the processes that hold the model."""
        if self.process is not None:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)


async def _is_well(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).is_success
    except httpx.TransportError:
        return False
