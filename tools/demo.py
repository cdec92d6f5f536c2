"""Show the whole idea in half a minute: a model that is in memory only while somebody speaks to it.

    python -m tools.demo [--port 8002] [--speech FILE]

First act: a server with tiny.en that holds no model gets speech, is told to unload, and gets the speech again. Second
act: the same server obeys a model file, and nobody tells it anything.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tools.server_process import ServerFailed, ServerProcess, serving, tail
from tools.weights import CHECKPOINT
from whispermodel.spec import API_VERSION, KIND

ROOT = Path(__file__).resolve().parents[1]
SPEECH = ROOT / "tests" / "data" / "jfk.flac"
WEIGHTS = ROOT / "var" / "models" / CHECKPOINT
_MIB = 2**20
_ANSWER_SECONDS = 120.0
_STATE_SECONDS = 30.0
_POLL_SECONDS = 0.05
_IDLE = {"unloadAfter": "1s", "scaleToZeroAfter": "4s"}


class DemoFailed(Exception):
    """What went wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer. seconds: as the client waited; parts: the server's own account of it (Server-Timing), in seconds."""

    text: str
    seconds: float
    parts: Mapping[str, float]


def show(speech: Path, *, port: int | None) -> None:
    """Run the demo and print it. Raises DemoFailed, ServerFailed, httpx.HTTPError."""
    for path, hint in ((WEIGHTS, "run 'make weights'"), (speech, "name a file that exists")):
        if not path.is_file():
            raise DemoFailed(f"there is no file {path}: {hint}")
    with tempfile.TemporaryDirectory(prefix="whisper-demo-") as folder:
        _converse(speech, Path(folder), port=port)
        print("\nThe server has stopped; none of its processes is left. Now one that obeys a file, on its own:")
        _let_obey(speech, Path(folder), port=port)
    print("\nThe server has stopped; none of its processes is left.")


def _converse(speech: Path, folder: Path, *, port: int | None) -> None:
    settings = {
        "MODEL": "tiny.en",
        "MODEL_PATH": str(WEIGHTS),
        "CACHE_DIR": str(folder / "cache"),
        "PRELOAD_MODEL": "false",
    }
    with serving(settings, folder, port=port) as server, _client(server) as client:
        print(f"A server for Whisper tiny.en on {server.url}: it answered {server.open_seconds:.1f} s after its start.")
        _print_memory(server, "The model is not loaded")
        first = _transcribed(client, speech, server=server, title=f"\nSpeech ({speech.name}) arrives.")
        _print_memory(server, "The model is loaded")
        _unload(client, server)
        again = _transcribed(client, speech, server=server, title="\nThe same speech arrives again.")
        if first.text != again.text:
            raise DemoFailed(f"the second answer differs from the first: {again.text!r}")
        _print_memory(server, "The model is loaded")


def _let_obey(speech: Path, folder: Path, *, port: int | None) -> None:
    """Let a model come and go by the idle times of a model file."""
    spec = {"model": {"size": "tiny.en", "source": {"path": str(WEIGHTS)}}, "idle": _IDLE}
    head = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "demo"}}
    file = folder / "model.json"
    file.write_text(json.dumps({**head, "spec": spec}))
    settings = {"MODEL_FILE": str(file), "CACHE_DIR": str(folder / "cache")}
    print(
        f"\n  spec: {{idle: {{unloadAfter: {_IDLE['unloadAfter']}, scaleToZeroAfter: {_IDLE['scaleToZeroAfter']}}}}}\n"
    )
    with serving(settings, folder / "obeying", port=port) as server, _client(server) as client:
        _print_state(server, client, "Zero")
        _transcribed(client, speech, server=server, title=f"\nSpeech ({speech.name}) arrives.")
        print()
        for state in ("Loaded", "Unloaded", "Zero"):
            _print_state(server, client, state)
        _transcribed(client, speech, server=server, title="\nThe same speech arrives again.")
        _print_state(server, client, "Loaded")


def _print_state(server: ServerProcess, client: httpx.Client, state: str) -> None:
    """Wait for a state and print what the resource says of it (GET /model/resource)."""
    deadline = time.monotonic() + _STATE_SECONDS
    while (status := _status(server, client))["state"] != state:
        if time.monotonic() > deadline:
            raise DemoFailed(f"the model is {status['state']} and not {state}: {status['message']}\n{tail(server.log)}")
        time.sleep(_POLL_SECONDS)
    processes = len(server.pids())
    held = f"{status['memory']['residentBytes'] / _MIB:.0f} MiB in {processes} process{'es' if processes > 1 else ''}"
    unload = status.get("lastUnload") if state == "Unloaded" else None
    freed = f"; {unload['freedResidentBytes'] / _MIB:.0f} MiB freed in {unload['seconds']:.2f} s" if unload else ""
    print(f"  {state:8}  {held}{freed}. {status['message'].split(';')[0].rstrip('.')}.")


def _status(server: ServerProcess, client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/model/resource")
    _require_success(answer, server)
    return answer.json()["status"]


def _client(server: ServerProcess) -> httpx.Client:
    # trust_env: a proxy that the environment names is not meant for this machine.
    return httpx.Client(base_url=server.url, timeout=_ANSWER_SECONDS, trust_env=False)


def _transcribed(client: httpx.Client, speech: Path, *, server: ServerProcess, title: str) -> Heard:
    print(f"{title} Nobody has loaded the model.")
    began = time.perf_counter()
    with speech.open("rb") as file:
        answer = client.post("/v1/audio/transcriptions", files={"file": (speech.name, file)})
    seconds = time.perf_counter() - began
    _require_success(answer, server)
    heard = Heard(answer.json()["text"].strip(), seconds, _parts(answer.headers.get("server-timing", "")))
    spent = ", ".join(f"{name} {heard.parts[name]:.1f} s" for name in ("load", "transcribe") if name in heard.parts)
    print(f'  "{heard.text}"\n  Text after {heard.seconds:.1f} s ({spent}).')
    return heard


def _unload(client: httpx.Client, server: ServerProcess) -> None:
    print("\nThe model is unloaded (POST /model/unload): its process ends, and what that gave back is measured.")
    answer = client.post("/model/unload")
    _require_success(answer, server)
    receipt = answer.json()
    freed, released = receipt["memory_freed"], "fully released" if receipt["fully_released"] else "NOT fully released"
    print(
        f"  Receipt: {freed['ram_mb']:.0f} MiB of RAM and {freed['vram_mb']:.0f} MiB of GPU memory freed"
        f" in {receipt['unload_seconds']:.2f} s, {released}."
    )
    _print_memory(server, "What is left")


def _print_memory(server: ServerProcess, what: str) -> None:
    tree = server.weigh()
    count = f"{tree.processes} process{'es' if tree.processes > 1 else ''}"
    print(f"  {what}: {tree.total.proportional / _MIB:.0f} MiB in {count}.")


def _parts(server_timing: str) -> dict[str, float]:
    return {name: float(ms) / 1000 for name, ms in re.findall(r"(\w+);dur=([\d.]+)", server_timing)}


def _require_success(answer: httpx.Response, server: ServerProcess) -> None:
    if not answer.is_success:
        raise DemoFailed(f"the server answered {answer.status_code}: {answer.text}\n{tail(server.log)}")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo", description="Transcribe, unload, transcribe again; then let a file decide."
    )
    parser.add_argument("--port", type=int, help="for the server (default: a free one)")
    parser.add_argument("--speech", type=Path, default=SPEECH, help="audio to send (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        show(given.speech, port=given.port)
    except (DemoFailed, ServerFailed) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"The demo failed: the server could not be asked ({error!r}).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
