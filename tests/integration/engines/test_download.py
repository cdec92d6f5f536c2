"""Downloads of official checkpoints, from a server on this machine."""

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

from whisper_inference.engines.download import Patience, Remote, download
from whisper_inference.errors import DownloadFailed

CONTENT = bytes(range(256)) * 20_000
HURRIED = Patience(socket=2, first_byte=1, pauses=(0, 0, 0))


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
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            body = CONTENT[int(found[1]) :] if found else CONTENT
            self.send_response(206 if found and state.status == 200 else state.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client of a refused answer does not read it
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


def remote(server: Server, *, sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> Remote:
    return Remote(name="tiny", url=server.url, sha256=sha256)


def test_a_file_arrives_whole_and_only_then_under_its_name(server: Server, tmp_path: Path) -> None:
    assert download(remote(server), tmp_path / "cache" / "tiny.pt", patience=HURRIED).read_bytes() == CONTENT
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"tiny.pt", "tiny.pt.lock"}


def test_a_dropped_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.drop_after = [3_000_000, 1_000_000]
    assert download(remote(server), tmp_path / "tiny.pt", patience=HURRIED).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=3000000-", "bytes=4000000-"]


def test_what_an_earlier_process_left_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt.part").write_bytes(CONTENT[:1000])
    assert download(remote(server), tmp_path / "tiny.pt", patience=HURRIED).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_damaged_remainder_is_thrown_away_and_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt.part").write_bytes(b"x" * 1000)
    assert download(remote(server), tmp_path / "tiny.pt", patience=HURRIED).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_a_file_with_another_digest_is_never_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="another SHA-256"):
        download(remote(server, sha256="0" * 64), tmp_path / "tiny.pt", patience=HURRIED)
    assert not (tmp_path / "tiny.pt").exists()


def test_a_refusal_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadFailed, match="404"):
        download(remote(server), tmp_path / "tiny.pt", patience=HURRIED)
    assert server.ranges == [None]


def test_without_a_network_it_fails_and_says_what_to_do(tmp_path: Path) -> None:
    unreachable = Remote(name="tiny", url="http://127.0.0.1:9/digest/tiny.pt", sha256="0" * 64)
    with pytest.raises(DownloadFailed, match="set WHISPER_MODEL_PATH"):
        download(unreachable, tmp_path / "tiny.pt", patience=HURRIED)


def test_without_a_terminal_its_progress_is_in_the_log_a_json_line_each(server: Server, tmp_path: Path) -> None:
    program = "from whisper_inference.logs import log_libraries_to_stderr; log_libraries_to_stderr()\n"
    program += "import sys; from pathlib import Path\n"
    program += "from whisper_inference.engines.download import Remote, download\n"
    program += "download(Remote('tiny', sys.argv[1], sys.argv[2]), Path(sys.argv[3]))\n"
    command = [sys.executable, "-c", program, server.url, remote(server).sha256, tmp_path / "tiny.pt"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    [line] = [json.loads(line) for line in said.splitlines()]
    assert line["event"] == f"download begins model=tiny bytes=0 of={len(CONTENT)}"
    assert line["level"] == "info"
