"""Run the command line: python -m whisper_operator."""

from __future__ import annotations

from whisper_operator.main import app

if __name__ == "__main__":
    app(prog_name="whisper-operator")
