"""The command line: `python -m tools.clusters.local up|down|load|status`."""

from __future__ import annotations

from tools.clusters.command_line import command_line
from tools.clusters.local.cluster import LocalCluster

if __name__ == "__main__":
    command_line(LocalCluster())()
