"""Run the command line as a module: python -m whisper_operator. Without a command, it runs the operator."""

from __future__ import annotations

import sys

from whisper_operator.main import app

if __name__ == "__main__":
    app(sys.argv[1:] or ["run"], prog_name="whisper-operator")
