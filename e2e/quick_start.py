"""Run the Kubernetes quick start of docs/quickstart.md exactly as written."""

from __future__ import annotations

import re

from e2e.cluster import Cluster
from tools.clusters.base import ROOT
from tools.clusters.choice import provider_of

TOUR = ROOT / "docs" / "quickstart.md"
HEADING = "## In a cluster"
_PRELUDE = "set -euo pipefail\ntrap 'kill $(jobs -p) || true' EXIT\n"


def commands(*, own: bool) -> str:
    """Return the commands in the first console block of that section as a script.

    own: whether the cluster was started by `make cluster`; only then is the first line, which selects it, included.
    """
    part = TOUR.read_text(encoding="utf-8").split(f"\n{HEADING}\n", 1)[1].split("\n## ", 1)[0]
    console = re.search(r"```console\n(.*?)```", part, flags=re.DOTALL)
    assert console is not None, f"no console under '{HEADING}'"
    # Commands follow a prompt and continue after a backslash; other lines are output.
    found = re.findall(r"^\$ ((?:.*\\\n)*.*)", console[1], flags=re.MULTILINE)
    return "\n".join(found if own else found[1:])


def run(cluster: Cluster) -> str:
    """Run the quick start in the cluster and return its output."""
    own = provider_of(cluster.context) is not None
    return cluster.run("bash", "-c", _PRELUDE + commands(own=own), seconds=240)
