"""Run the end-to-end tests, or start a cluster to try things out.

    python -m e2e [ARGUMENTS OF PYTEST]
    python -m e2e --up [IMAGE...] | --down

The tests run on the cluster of KUBECONFIG, which must have the images and be marked as one for tests. Without
KUBECONFIG, they run on a local cluster, which is started with the images, and stopped afterwards unless it was already
running.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.clusters.base import KUBECONFIG, ROOT, Provider, ProviderFailed, program
from tools.clusters.choice import provider_for_this_machine
from tools.images import ImagesError, build, make_base

TO_TRY = ("operator", "gateway", "faster-tiny.en")
"""The images for the quick start of docs/quickstart.md."""
IMAGES = (*TO_TRY, "openai-tiny.en")


def main(arguments: Sequence[str]) -> int:
    """Run the program; return its exit status."""
    try:
        match arguments:
            case ["--up", *more]:
                bring_up(provider_for_this_machine(), [*TO_TRY, *more])
                print(f"The cluster is running and has the images. Next: export KUBECONFIG={KUBECONFIG}")
            case ["--down"]:
                provider_for_this_machine().down()
            case _:
                return run_tests(arguments)
    except (ProviderFailed, ImagesError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def bring_up(provider: Provider, names: Sequence[str]) -> None:
    """Start a cluster, and load images built from this working tree. Raises ProviderFailed, ImagesError."""
    provider.up()
    base = make_base() if provider.needs_base_image else None
    provider.load([*build(names, base=base).values()])


def run_tests(arguments: Sequence[str]) -> int:
    """Run the end-to-end tests; return pytest's exit status. Raises ProviderFailed, ImagesError."""
    named = os.environ.get("KUBECONFIG")
    if named and Path(named).resolve() != KUBECONFIG:
        return _pytest(arguments, kubeconfig=named)
    provider = provider_for_this_machine()
    was_up = provider.is_up()
    try:
        bring_up(provider, IMAGES)
        return _pytest(arguments, kubeconfig=str(KUBECONFIG))
    finally:
        if not was_up:
            provider.down()


def _pytest(arguments: Sequence[str], *, kubeconfig: str) -> int:
    for name in ("kubectl", "helm"):
        program(name)
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    return subprocess.run(command_of(arguments), cwd=ROOT, env=environment, check=False).returncode


def command_of(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs the end-to-end tests: all, unless the arguments select some."""
    return [sys.executable, "-m", "pytest", "--override-ini=testpaths=e2e", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
