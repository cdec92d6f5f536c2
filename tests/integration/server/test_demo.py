"""`make demo`, as people run it first."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import psutil
import pytest

from testing.paths import ROOT
from testing.spoken_words import ASK_NOT, normalized


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.demo", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def processes_of(port: str) -> list[str]:
    """Return the command lines of this user's processes whose environment names the port."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("WHISPER_PORT") == port and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def shown() -> list[str]:
    """Return the lines that docs/quickstart.md shows of the demo; the README shows some of them."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    transcript = page.split("$ make demo\n", 1)[1].split("```", 1)[0]
    return [line for line in transcript.splitlines() if line not in ("", "...")]


def without_figures(line: str) -> str:
    """Leave out what differs from run to run: numbers, weekdays, and whether it is one process or several."""
    line = re.sub(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b", "DAY", line)
    return re.sub(r"\d[\d.:-]*", "N", line).replace("processes", "process")


def test_the_demo_unloads_survives_a_kill_and_leaves_no_process() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = demo("--port", port)
    assert done.returncode == 0, done.stderr
    assert normalized(done.stdout).count(ASK_NOT) == 5
    assert re.search(r"Receipt: \d+ MiB of RAM .* freed in \d\.\d\d s, fully released", done.stdout)
    states = re.findall(r"^  (Zero|Loaded|Unloaded) .* in (\d) process", done.stdout, flags=re.MULTILINE)
    # While Unloaded, the second process may exit just before the processes are counted.
    counted = [(state, "1 or 2" if state == "Unloaded" and count in "12" else count) for state, count in states]
    assert counted == [("Zero", "1"), ("Loaded", "3"), ("Unloaded", "1 or 2"), ("Zero", "1"), ("Loaded", "3")]
    assert f"http://127.0.0.1:{port}" in done.stdout
    printed = {without_figures(line) for line in done.stdout.splitlines()}
    assert [line for line in shown() if without_figures(line) not in printed] == []
    assert processes_of(port) == []


def test_a_port_in_use_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo("--port", str(port))
    assert done.returncode == 1
    assert f"port {port} is not available" in done.stderr


@pytest.mark.parametrize(("speech", "reason"), [("nowhere.flac", "does not exist"), ("README.md", "415")])
def test_unusable_audio_is_reported(speech: str, reason: str) -> None:
    done = demo("--speech", speech)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
