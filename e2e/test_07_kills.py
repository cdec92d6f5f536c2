"""Story 7: the server, the operator and the API server are killed in the middle of it."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.model import Model
from e2e.providers.choice import provider_of
from e2e.release import Release
from e2e.speech import WORDS
from tests.operator_process import eventually

KILL = "import os, signal; os.kill({pid}, signal.SIGKILL)"


def test_a_server_that_is_killed_comes_back_with_its_model_and_its_jobs(model: Model) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    name = model.pod()["metadata"]["name"]
    with model.speaking() as speech:
        jobs = [speech.start_job() for _ in range(4)]
        model.run("python", "-c", KILL.format(pid=server_of(model)))
    eventually(lambda: restarts(model) == 1, "the container is started again")
    model.wait_for(state="Loaded")
    assert model.pod()["metadata"]["name"] == name
    with model.speaking() as speech:
        assert all(WORDS in text for text in speech.text_of(jobs))


def test_an_operator_that_is_killed_in_the_middle_of_a_load_finds_its_way_back(
    cluster: Cluster, model: Model, release: Release
) -> None:
    model.apply(desiredState="Loaded")
    eventually(model.pods, "a pod is wanted")
    [operator] = release.operator_pods()
    cluster.kubectl("delete", "pod", operator, "--namespace", release.namespace, "--grace-period=0", "--force")
    model.wait_for(state="Loaded")
    assert release.operator_pods() != [operator]
    assert restarts(model) == 0


def test_an_api_server_that_restarts_in_the_middle_of_a_load_costs_nothing(cluster: Cluster, model: Model) -> None:
    provider = provider_of(cluster.context)
    if provider is None:
        pytest.skip("nobody knows how to restart the API server of this cluster")
    model.apply(desiredState="Loaded")
    eventually(model.pods, "a pod is wanted")
    provider.restart_api_server()
    model.wait_for(state="Loaded")
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()
    assert restarts(model) == 0


def server_of(model: Model) -> int:
    """Return the number of the API process in its container: the child of its init."""
    [pid] = [pid for pid, line in model.processes().items() if "whisper-inference serve" in line and "tini" not in line]
    return int(pid)


def restarts(model: Model) -> int:
    [container] = model.pod()["status"]["containerStatuses"]
    return container["restartCount"]
