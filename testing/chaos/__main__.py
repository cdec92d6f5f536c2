"""Run the chaos program: `python -m testing.chaos --cycles 1000 --seed 7`."""

from __future__ import annotations

import argparse
import io
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from testing.api_server import HOW_TO_GET_THEM, binaries, running_api_server, running_controllers
from testing.chaos.oracle import Oracle
from testing.chaos.program import Chaos
from testing.chaos.stand_ins import slow_jobs, text_of
from testing.chaos.world import World, running_world
from testing.gateway_process import grant_gateway_rights
from testing.kubelet_stand_in import running_kubelet
from testing.operator_process import grant_rights

FOLDER = Path("var/chaos")


def main(arguments: list[str] | None = None) -> int:
    """Return 0; 1 if a promise was not kept; 2 without an API server."""
    given = _parser().parse_args(arguments)
    if binaries() is None:
        print(HOW_TO_GET_THEM, file=sys.stderr)
        return 2
    folder = (FOLDER / f"{time.time_ns()}").absolute()
    with _world(folder, models=given.models) as world:
        oracle = Oracle(text_of)
        chaos = Chaos(world, oracle, given.seed, report=_say)
        _say(f"seed {given.seed}, {given.cycles} cycles; logs in {folder}")
        chaos.run(given.cycles)
    _say(f"faults: {dict(sorted(chaos.faults.items()))}")
    _say(f"seen: {dict(sorted(oracle.counts.items()))}")
    for violation in oracle.violations:
        _say(f"VIOLATION: {violation}")
    _say(f"{len(oracle.violations)} violations, seed {given.seed}")
    return 1 if oracle.violations else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _world(folder: Path, *, models: int) -> Iterator[World]:
    programs = binaries()
    assert programs is not None
    folder.mkdir(parents=True)
    # The processes' logs, which tests print, stay in the folder.
    with (
        redirect_stdout(io.StringIO()),
        running_api_server(folder, programs) as api,
        running_controllers(api),
        running_kubelet(api) as kubelet,
    ):
        grant_rights(api)
        grant_gateway_rights(api)
        kubelet.prepare = slow_jobs
        names = [f"model-{number}" for number in range(models)]
        with running_world(api, kubelet, folder, namespace=api.make_namespace("chaos"), models=names) as world:
            yield world


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m testing.chaos", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100, help="how many times faults happen")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**16), help="default: a random one")
    parser.add_argument("--models", type=int, default=3, help="how many WhisperModels")
    return parser


if __name__ == "__main__":
    sys.exit(main())
