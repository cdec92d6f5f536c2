"""Limits of bytes, and a full disk: refused early and whole, and the server goes on."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from testing.audio_files import RATE, write_wav
from testing.server_process import Launch, ServerProcess, StartServer, upload

MIB = 2**20
_TMPFS_MIB = 12


@pytest.fixture(scope="module")
def small_server(launch: Launch) -> Iterator[ServerProcess]:
    with launch(WHISPER_MAX_AUDIO_BYTES="4Mi", WHISPER_MAX_STORED_BYTES="5Mi") as server:
        server.load()
        yield server


def send_without_end(server: ServerProcess, *, most_bytes: int) -> tuple[bytes, int]:
    """Send a chunked upload until the server answers; return the answer's first bytes and how much was taken."""
    taken = 0
    with server.connect() as connection:
        connection.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        answered = threading.Event()
        answer: list[bytes] = []

        def listen() -> None:
            answer.append(connection.recv(4096))
            answered.set()

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            for data in (head, *([b"\0" * 65_536] * (most_bytes // 65_536))):
                if answered.is_set():
                    break
                connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                taken += len(data)
        except OSError:
            pass  # the server has hung up, as it may
        listening.join(30)
    return (answer or [b""])[0], taken


def test_an_endless_upload_is_cut_off_at_the_cap(small_server: ServerProcess) -> None:
    before = psutil.Process(small_server.pid).memory_info().rss
    answer, taken = send_without_end(small_server, most_bytes=500 * MIB)
    assert answer.split(b"\r\n")[0].split()[1] == b"413"
    assert taken < 40 * MIB
    assert psutil.Process(small_server.pid).memory_info().rss - before < 20 * MIB


def test_an_upload_that_announces_too_much_is_refused_unread(small_server: ServerProcess) -> None:
    answer = small_server.client.post("/jobs", files={"file": ("a.wav", b"\0" * 6 * MIB)})
    assert (answer.status_code, answer.json()["code"]) == (413, "audio-too-large")
    assert answer.json()["limit_bytes"] == 4 * MIB


def test_nothing_is_kept_of_an_upload_over_the_cap(small_server: ServerProcess) -> None:
    send_without_end(small_server, most_bytes=20 * MIB)
    assert [path for path in (small_server.data_dir / "audio").rglob("*") if path.is_file()] == []


def test_stored_jobs_have_a_limit_of_bytes_together(small_server: ServerProcess, long_clip: Path, clip: Path) -> None:
    first = small_server.submit(long_clip)
    refused = small_server.client.post("/jobs", files={"file": upload(long_clip)})
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-stored-bytes")
    assert int(refused.headers["Retry-After"]) >= 1
    assert small_server.wait_for_job(first["id"])["status"] == "succeeded"
    assert small_server.submit(clip)["id"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_MIB}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        assert not (os.environ.get("CI") == "true" and os.getuid() == 0), mounted.stderr
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_the_upload_and_keeps_nothing_of_it(
    small_disk: Path, start_server: StartServer, clip: Path, tmp_path: Path
) -> None:
    server = start_server(data_dir=small_disk / "data")
    big = write_wav(tmp_path / "big.wav", np.zeros(_TMPFS_MIB * MIB // 2, np.int16), rate=RATE)
    for path in ("/jobs", "/v1/audio/transcriptions"):
        answer = server.client.post(path, files={"file": upload(big)})
        assert answer.status_code == 507, answer.text
        assert "disk is full" in answer.text
    assert server.client.get("/jobs").json()["jobs"] == []
    assert [path for path in (small_disk / "data" / "audio").rglob("*") if path.is_file()] == []
    assert server.transcribe(clip).status_code == 200
