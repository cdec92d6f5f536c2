"""The commands as processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testing.api_server import ROOT

EXAMPLE = str(ROOT / "examples" / "office-hours.yaml")
PERIOD = ["--from", "2026-11-27T00:00", "--to", "2026-12-01T12:00"]


@pytest.mark.parametrize(
    "arguments", [["validate", EXAMPLE], ["forecast", EXAMPLE, *PERIOD]], ids=lambda given: given[0]
)
def test_unwritable_output_is_reported_in_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "whisper_operator", *arguments]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (1, "cannot write the output: No space left on device\n")
