"""The command line: `python -m e2e.providers.local up|down|load|status`."""

from __future__ import annotations

from e2e.providers.command_line import command_line
from e2e.providers.local.cluster import LocalCluster

if __name__ == "__main__":
    command_line(LocalCluster())()
