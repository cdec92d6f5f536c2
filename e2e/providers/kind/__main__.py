"""The command line: `python -m e2e.providers.kind up|down|load|status`."""

from __future__ import annotations

from e2e.providers.command_line import command_line
from e2e.providers.kind.cluster import KindCluster

if __name__ == "__main__":
    command_line(KindCluster())()
