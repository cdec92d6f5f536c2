"""Faults at random under a stream of jobs: none is lost, has two results, is stuck, or is refused without a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.api_server import ApiServer
from testing.chaos.oracle import Oracle
from testing.chaos.program import Chaos
from testing.chaos.stand_ins import slow_jobs, text_of
from testing.chaos.world import running_world
from testing.depth import depth
from testing.kubelet_stand_in import Kubelet

CYCLES = depth(ci=4, nightly=60)
SEED = 3
"""Its first cycles: workers crash; the gateway is killed; a pod is deleted; disk full, and the gateway killed again."""


@pytest.mark.usefixtures("rights", "gateway_rights")
def test_every_accepted_job_survives_random_faults(
    api_server: ApiServer, kubelet: Kubelet, namespace: str, tmp_path: Path
) -> None:
    kubelet.reset()
    kubelet.prepare = slow_jobs
    oracle = Oracle(text_of)
    with running_world(api_server, kubelet, tmp_path, namespace=namespace, models=["base", "small"]) as world:
        Chaos(world, oracle, SEED, report=print, longest_fault=2.0).run(CYCLES)
    assert oracle.violations == []
    assert oracle.counts["ended: succeeded"] > 0
    assert oracle.counts["answered"] > 0
