"""What a server writes where a machine reads it: JSON, a line each, from every process and every library."""

from __future__ import annotations

import json
from pathlib import Path

from testing.server_process import ServerProcess, StartServer, wait_until


def lines_of(server: ServerProcess) -> dict[str, dict[str, str]]:
    """Return the lines by their events; each must be JSON."""
    return {line["event"]: line for line in map(json.loads, server.log.read_text().splitlines())}


def test_the_worker_logs_what_goes_wrong_with_its_cache(start_server: StartServer, tmp_path: Path) -> None:
    occupied = tmp_path / "cache"
    occupied.write_text("a file where the folder should be")
    server = start_server("openai-whisper", WHISPER_CACHE_DIR=str(occupied))
    server.load()
    [logged] = [line for event, line in lines_of(server).items() if event.startswith("converted checkpoint not saved")]
    assert (logged["level"], logged["logger"]) == ("warning", "whisper_inference.engines.converted")


def test_the_http_server_logs_what_it_cannot_read(shared_server: ServerProcess) -> None:
    with shared_server.connect() as client:
        client.sendall(b"no HTTP\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    logged = wait_until(lambda: lines_of(shared_server).get("Invalid HTTP request received."), "the line")
    assert (logged["level"], logged["logger"]) == ("warning", "uvicorn.error")
