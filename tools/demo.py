"""Demonstrate a model that is in memory only while it is used, in half a minute.

    python -m tools.demo [--port 8002] [--speech FILE]

Part one: a server with tiny.en transcribes speech, unloads the model on request, and transcribes again. Part two: a
server follows a model file, and loads and unloads on its own. Part three: a gateway to two models is killed in the
middle of a job, and answers after its restart.
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
from tools.weights import CHECKPOINT, CT2_FOLDER
from whispermodel.spec import API_VERSION, KIND

ROOT = Path(__file__).resolve().parents[1]
SPEECH = ROOT / "tests" / "data" / "jfk.flac"
WEIGHTS = ROOT / "var" / "models" / CHECKPOINT
_MIB = 2**20
_ANSWER_SECONDS = 120.0
_STATE_SECONDS = 30.0
_POLL_SECONDS = 0.05
_IDLE = {"unloadAfter": "1s", "scaleToZeroAfter": "4s"}
_STOPPED = "The server has stopped; no process is left."


class DemoFailed(Exception):
    """The demo failed. The message says what happened and what to do."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """A response of the server."""

    text: str
    seconds: float
    """How long the client waited."""
    phases: Mapping[str, float]
    """The phases reported by the server (Server-Timing), in seconds."""


def show(speech: Path, *, port: int | None) -> None:
    """Run the demo and print its transcript. Raises DemoFailed, ServerFailed, httpx.HTTPError."""
    for path, hint in ((WEIGHTS, "run 'make weights'"), (speech, "choose an existing file")):
        if not path.is_file():
            raise DemoFailed(f"{path} does not exist: {hint}")
    with tempfile.TemporaryDirectory(prefix="whisper-demo-") as folder:
        _unload_on_request(speech, Path(folder), port=port)
        print(f"\n{_STOPPED} Next, a server that follows a model file, without any commands:")
        _follow_file(speech, Path(folder), port=port)
        print(f"\n{_STOPPED} Last, a gateway to two models, each in a server of its own while it is needed:")
        _kill_the_gateway(speech, Path(folder), port=port)
    print(f"\n{_STOPPED}")


def _unload_on_request(speech: Path, folder: Path, *, port: int | None) -> None:
    settings = {
        "MODEL": "tiny.en",
        "MODEL_PATH": str(WEIGHTS),
        "CACHE_DIR": str(folder / "cache"),
        "PRELOAD_MODEL": "false",
    }
    with serving(settings, folder, port=port) as server, _client(server) as client:
        print(
            f"The server for Whisper tiny.en is listening on {server.url}, {server.open_seconds:.1f} s after its start."
        )
        _print_memory(server, "Model not loaded")
        first = _transcribed(client, speech, server=server, title=f"\nSpeech ({speech.name}) arrives.")
        _print_memory(server, "Model loaded")
        _unload(client, server)
        again = _transcribed(client, speech, server=server, title="\nThe same speech arrives again.")
        if first.text != again.text:
            raise DemoFailed(f"the second transcript differs from the first: {again.text!r}")
        _print_memory(server, "Model loaded")


def _follow_file(speech: Path, folder: Path, *, port: int | None) -> None:
    """Load and unload according to the idle times in a model file."""
    spec = {"model": {"size": "tiny.en", "source": {"path": str(WEIGHTS)}}, "idle": _IDLE}
    head = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "demo"}}
    file = folder / "model.json"
    file.write_text(json.dumps({**head, "spec": spec}))
    settings = {"MODEL_FILE": str(file), "CACHE_DIR": str(folder / "cache")}
    print(
        f"\n  spec: {{idle: {{unloadAfter: {_IDLE['unloadAfter']}, scaleToZeroAfter: {_IDLE['scaleToZeroAfter']}}}}}\n"
    )
    with serving(settings, folder / "standalone", port=port) as server, _client(server) as client:
        _print_state(server, client, "Zero")
        _transcribed(client, speech, server=server, title=f"\nSpeech ({speech.name}) arrives.")
        print()
        for state in ("Loaded", "Unloaded", "Zero"):
            _print_state(server, client, state)
        _transcribed(client, speech, server=server, title="\nThe same speech arrives again.")
        _print_state(server, client, "Loaded")


def _kill_the_gateway(speech: Path, folder: Path, *, port: int | None) -> None:
    """Kill a gateway while it works for a client, and fetch the client's result after its restart."""
    _write_models(folder / "models")
    settings = {"MODEL_FILE": str(folder / "models"), "CACHE_DIR": str(folder / "cache")}
    with serving(settings, folder / "gateway", command="gateway", port=port) as gateway, _client(gateway) as client:
        _print_models(client, gateway)
        print(f"\nSpeech ({speech.name}) arrives for 'dictation', which is at zero.")
        with speech.open("rb") as file:
            answer = client.post("/jobs", files={"file": (speech.name, file)}, data={"model": "dictation"})
        _require_success(answer, gateway)
        job = str(answer.json()["id"])
        _await_job(client, job, status="running", server=gateway)
        _print_models(client, gateway)
        gateway.kill()
        print("  kill -9 of the gateway in the middle of the job. No process is left.")
    print("\nThe gateway starts again.")
    with serving(settings, folder / "gateway", command="gateway", port=port) as gateway, _client(gateway) as client:
        _await_job(client, job, status="succeeded", server=gateway)
        result = client.get(f"/jobs/{job}/result", params={"format": "text"})
        _require_success(result, gateway)
        text = " ".join(result.text.split())
        print(f'  "{text}"')
        _print_models(client, gateway)


def _write_models(folder: Path) -> None:
    folder.mkdir()
    models = {"dictation": ("openai-whisper", WEIGHTS), "meetings": ("faster-whisper", WEIGHTS.with_name(CT2_FOLDER))}
    for name, (engine, path) in models.items():
        spec = {
            "model": {"size": "tiny.en", "engine": engine, "source": {"path": str(path)}},
            "idle": {"unloadAfter": "15m", "scaleToZeroAfter": "1h"},
        }
        head = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}}
        (folder / f"{name}.json").write_text(json.dumps({**head, "spec": spec}))


def _print_models(client: httpx.Client, server: ServerProcess) -> None:
    answer = client.get("/v1/models")
    _require_success(answer, server)
    models = [f"{one['id']} {one['state']}" for one in answer.json()["data"]]
    print(f"  Models: {', '.join(models)}.")


def _await_job(client: httpx.Client, job: str, *, status: str, server: ServerProcess) -> None:
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        answer = client.get(f"/jobs/{job}")
        _require_success(answer, server)
        if (found := answer.json()["status"]) == status:
            return
        if found == "failed" or time.monotonic() > deadline:
            raise DemoFailed(f"the job is {found} instead of {status}: {answer.text}\n{tail(server.log)}")
        time.sleep(_POLL_SECONDS)


def _print_state(server: ServerProcess, client: httpx.Client, state: str) -> None:
    """Wait for a state, and print memory and message from GET /model/resource."""
    deadline = time.monotonic() + _STATE_SECONDS
    while (status := _status(server, client))["state"] != state:
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"the model is still {status['state']} instead of {state}: {status['message']}\n{tail(server.log)}"
            )
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
    # trust_env: do not use a proxy from the environment for localhost.
    return httpx.Client(base_url=server.url, timeout=_ANSWER_SECONDS, trust_env=False)


def _transcribed(client: httpx.Client, speech: Path, *, server: ServerProcess, title: str) -> Transcription:
    print(f"{title} The model is not loaded.")
    began = time.perf_counter()
    with speech.open("rb") as file:
        answer = client.post("/v1/audio/transcriptions", files={"file": (speech.name, file)})
    seconds = time.perf_counter() - began
    _require_success(answer, server)
    result = Transcription(answer.json()["text"].strip(), seconds, _phases(answer.headers.get("server-timing", "")))
    spent = ", ".join(f"{name} {result.phases[name]:.1f} s" for name in ("load", "transcribe") if name in result.phases)
    print(f'  "{result.text}"\n  Text after {result.seconds:.1f} s ({spent}).')
    return result


def _unload(client: httpx.Client, server: ServerProcess) -> None:
    print("\nUnload the model (POST /model/unload): its process exits, and the freed memory is measured.")
    answer = client.post("/model/unload")
    _require_success(answer, server)
    receipt = answer.json()
    freed, released = receipt["memory_freed"], "fully released" if receipt["fully_released"] else "NOT fully released"
    print(
        f"  Receipt: {freed['ram_mb']:.0f} MiB of RAM and {freed['vram_mb']:.0f} MiB of GPU memory freed"
        f" in {receipt['unload_seconds']:.2f} s, {released}."
    )
    _print_memory(server, "Model unloaded")


def _print_memory(server: ServerProcess, title: str) -> None:
    tree = server.measure_memory()
    count = f"{tree.processes} process{'es' if tree.processes > 1 else ''}"
    print(f"  {title}: {tree.total.proportional / _MIB:.0f} MiB in {count}.")


def _phases(server_timing: str) -> dict[str, float]:
    return {name: float(ms) / 1000 for name, ms in re.findall(r"(\w+);dur=([\d.]+)", server_timing)}


def _require_success(answer: httpx.Response, server: ServerProcess) -> None:
    if not answer.is_success:
        raise DemoFailed(f"the server answered {answer.status_code}: {answer.text}\n{tail(server.log)}")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo", description="Transcribe, unload, and transcribe again; then follow a model file."
    )
    parser.add_argument("--port", type=int, help="port of the server (default: a free one)")
    parser.add_argument("--speech", type=Path, default=SPEECH, help="audio file to send (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        show(given.speech, port=given.port)
    except (DemoFailed, ServerFailed) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"The demo failed: the server did not respond ({error!r}).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
