"""Story 7: the server, the operator and the API server survive being killed at work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.model import Model
from e2e.release import Release
from e2e.speech import WORDS
from testing.operator_process import eventually
from tools.clusters.choice import provider_of

KILL = "import os, signal; os.kill({pid}, signal.SIGKILL)"
OPERATOR_OF_POD = "int(open('/proc/1/task/1/children').read().split()[0])"
"""The child of the init process, which cannot be killed from inside the container."""


def test_a_killed_server_restores_its_model_and_its_jobs(model: Model) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    name = model.pod()["metadata"]["name"]
    with model.speaking() as speech:
        jobs = [speech.start_job() for _ in range(4)]
        model.run("python", "-c", KILL.format(pid=server_of(model)))
    eventually(lambda: restarts(model.pod()) == 1, "the container has restarted")
    model.wait_for(state="Loaded")
    assert model.pod()["metadata"]["name"] == name
    with model.speaking() as speech:
        assert all(WORDS in text for text in speech.text_of(jobs))


def test_an_operator_killed_during_a_load_recovers(cluster: Cluster, loading: Model, release: Release) -> None:
    [operator] = release.operator_pods()
    killing = KILL.format(pid=OPERATOR_OF_POD)
    cluster.kubectl("exec", "--namespace", release.namespace, operator, "--", "python", "-c", killing)
    killed = datetime.now(UTC)
    eventually(lambda: restarts(operator_pod(cluster, release)) == 1, "the operator has restarted")
    loaded_after(killed, loading)
    assert release.operator_pods() == [operator]


def test_an_api_server_restart_during_a_load_is_harmless(cluster: Cluster, loading: Model) -> None:
    provider = provider_of(cluster.context)
    if provider is None:
        pytest.skip("cannot restart the API server of this cluster")
    killed = datetime.now(UTC)
    provider.restart_api_server()
    loaded_after(killed, loading)
    with loading.speaking() as speech:
        assert WORDS in speech.transcribe()


@pytest.fixture
def loading(model: Model) -> Model:
    """A model that is loading slowly."""
    model.apply(desiredState="Loaded", pod={"resources": {"limits": {"cpu": "150m"}}})
    model.wait_for(state="Loading", seconds=120)
    return model


def loaded_after(killed: datetime, model: Model) -> None:
    """Wait until a model is loaded; check that it was loaded after the kill, without a restart of its pod."""
    status = model.wait_for(state="Loaded", seconds=120)
    # The status has whole seconds.
    assert datetime.fromisoformat(status["lastLoad"]["time"]) >= killed.replace(microsecond=0)
    assert restarts(model.pod()) == 0


def operator_pod(cluster: Cluster, release: Release) -> dict[str, Any]:
    [name] = release.operator_pods()
    return cluster.get(f"/api/v1/namespaces/{release.namespace}/pods/{name}") or {}


def server_of(model: Model) -> int:
    """Return the pid of the API process in its container, a child of the init process."""
    [pid] = [pid for pid, line in model.processes().items() if "whisper-inference serve" in line and "tini" not in line]
    return int(pid)


def restarts(pod: dict[str, Any]) -> int:
    [container] = pod["status"]["containerStatuses"]
    return container["restartCount"]
