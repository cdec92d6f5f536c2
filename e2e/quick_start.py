"""The Kubernetes quick start of docs/quickstart.md, run as it is written."""

from __future__ import annotations

import re

from e2e.cluster import Cluster
from tools.clusters.base import ROOT
from tools.clusters.choice import provider_of

TOUR = ROOT / "docs" / "quickstart.md"
HEADING = "## In a cluster"
_PRELUDE = "set -euo pipefail\ntrap 'kill $(jobs -p) || true' EXIT\n"


def commands(*, own: bool) -> str:
    """Return the commands of the first console of that part of the page, as a script: the lines after a prompt.

    own: whether the cluster is one that `make cluster` brings up. The first line, which leads there, is for those.
    """
    part = TOUR.read_text(encoding="utf-8").split(f"\n{HEADING}\n", 1)[1].split("\n## ", 1)[0]
    console = re.search(r"```console\n(.*?)```", part, flags=re.DOTALL)
    assert console is not None, f"no console under '{HEADING}'"
    # A command goes on in the next line after a backslash; its answer is what has no prompt.
    found = re.findall(r"^\$ ((?:.*\\\n)*.*)", console[1], flags=re.MULTILINE)
    return "\n".join(found if own else found[1:])


def run(cluster: Cluster) -> str:
    """Run it in the cluster; return all that it prints."""
    own = provider_of(cluster.context) is not None
    return cluster.run("bash", "-c", _PRELUDE + commands(own=own), seconds=240)
