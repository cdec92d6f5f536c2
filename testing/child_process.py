"""A program under test as a child process, which can be killed and restarted."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

WAIT_SECONDS = 120
"""Long, because on a busy machine a second becomes ten, and the lease may expire meanwhile."""


class ChildProcess:
    """One process at a time."""

    process: subprocess.Popen[bytes] | None = None
    """The one started last."""
    stop_seconds: float = WAIT_SECONDS
    """How long its end may take."""

    def spawn(self, *arguments: str, environment: Mapping[str, str], log: Path, cwd: Path | None = None) -> None:
        """Start `python -m` with the arguments; what it prints is appended to the log."""
        command = [sys.executable, "-m", *arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=cwd)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop the process; return its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(self.stop_seconds)
