"""Downloads of official checkpoints, from a local server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from whisper_inference.engines.download import RemoteFile, RetryPolicy, download
from whisper_inference.errors import DownloadFailed

CONTENT = bytes(range(256)) * 20_000
NO_DELAY = RetryPolicy(socket_timeout=2, first_byte_timeout=1, delays=(0, 0, 0))


@dataclass
class Server:
    url: str
    ranges: list[str | None] = field(default_factory=list)
    drop_after: list[int] = field(default_factory=list)
    status: int = 200


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested = self.headers.get("Range")
            state.ranges.append(requested)
            found = re.fullmatch(r"bytes=(\d+)-", requested or "")
            body = CONTENT[int(found[1]) :] if found else CONTENT
            self.send_response(206 if found and state.status == 200 else state.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client does not read the body of an error
                self.wfile.write(body[: state.drop_after.pop(0)] if state.drop_after else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(f"http://127.0.0.1:{http.server_address[1]}/digest/tiny.pt")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def remote(server: Server, *, sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> RemoteFile:
    return RemoteFile(model="tiny", url=server.url, sha256=sha256)


def test_file_appears_once_it_is_complete(server: Server, tmp_path: Path) -> None:
    assert download(remote(server), tmp_path / "cache" / "tiny.pt", retries=NO_DELAY).read_bytes() == CONTENT
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"tiny.pt", "tiny.pt.lock"}


def test_dropped_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.drop_after = [3_000_000, 1_000_000]
    assert download(remote(server), tmp_path / "tiny.pt", retries=NO_DELAY).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=3000000-", "bytes=4000000-"]


def test_partial_file_of_another_process_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt.part").write_bytes(CONTENT[:1000])
    assert download(remote(server), tmp_path / "tiny.pt", retries=NO_DELAY).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_damaged_partial_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt.part").write_bytes(b"x" * 1000)
    assert download(remote(server), tmp_path / "tiny.pt", retries=NO_DELAY).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_file_with_a_wrong_digest_is_discarded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="does not match"):
        download(remote(server, sha256="0" * 64), tmp_path / "tiny.pt", retries=NO_DELAY)
    assert not (tmp_path / "tiny.pt").exists()


def test_client_error_is_not_retried(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadFailed, match="404"):
        download(remote(server), tmp_path / "tiny.pt", retries=NO_DELAY)
    assert server.ranges == [None]


def test_unreachable_server_fails_with_advice(tmp_path: Path) -> None:
    unreachable = RemoteFile(model="tiny", url="http://127.0.0.1:9/digest/tiny.pt", sha256="0" * 64)
    with pytest.raises(DownloadFailed, match="set WHISPER_MODEL_PATH"):
        download(unreachable, tmp_path / "tiny.pt", retries=NO_DELAY)


def test_progress_is_logged_as_json_without_a_terminal(server: Server, tmp_path: Path) -> None:
    program = "from whisper_inference.worker.logs import log_libraries_to_stderr; log_libraries_to_stderr()\n"
    program += "import sys; from pathlib import Path\n"
    program += "from whisper_inference.engines.download import RemoteFile, download\n"
    program += "download(RemoteFile('tiny', sys.argv[1], sys.argv[2]), Path(sys.argv[3]))\n"
    command = [sys.executable, "-c", program, server.url, remote(server).sha256, tmp_path / "tiny.pt"]
    stderr = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    [line] = [json.loads(line) for line in stderr.splitlines()]
    assert line["event"] == f"download started model=tiny bytes=0 of={len(CONTENT)}"
    assert line["level"] == "info"
