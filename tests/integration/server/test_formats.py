"""What people really send: every container and codec gives the right words."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.audio_files import FORMATS, encode
from testing.server_process import ServerProcess


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_format_is_transcribed(shared_server: ServerProcess, tmp_path: Path, name: str) -> None:
    answer = shared_server.transcribe(encode(tmp_path / f"speech.{name}", name))
    assert answer.status_code == 200, answer.text
    text = answer.json()["text"]
    assert "fellow Americans" in text
    assert "what you can do for your country" in text
