"""The command line: `python -m tools.clusters.kind up|down|load|status`."""

from __future__ import annotations

from tools.clusters.command_line import command_line
from tools.clusters.kind.cluster import KindCluster

if __name__ == "__main__":
    command_line(KindCluster())()
