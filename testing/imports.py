"""Lists what a program imports, in a fresh interpreter without the tests' own imports."""

from __future__ import annotations

import subprocess
import sys


def imported_with(*modules: str) -> set[str]:
    """Return the names of all modules in sys.modules after importing some."""
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def imported_by(module: str, *arguments: str) -> set[str]:
    """Return the names of all modules that a program imports while it runs."""
    command = [sys.executable, "-X", "importtime", "-m", module, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return {line.rsplit("|", 1)[1].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
