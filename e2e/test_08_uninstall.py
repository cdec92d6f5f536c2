"""Story 8: uninstalling the operator while there are models leaves nothing hanging."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.model import Model
from e2e.release import CRD, Release, Releases
from e2e.speech import WORDS
from testing.operator_process import eventually

DEFINITION = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}"


@pytest.fixture
def running(model: Model) -> Model:
    """A loaded model."""
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    return model


@pytest.fixture
def uninstalled(running: Model, releases: Releases) -> Model:
    """A model whose operator has been uninstalled."""
    releases.clear()
    return running


def test_models_and_pods_survive_the_release_and_the_next_one_adopts_them(
    cluster: Cluster, uninstalled: Model, releases: Releases
) -> None:
    assert cluster.get(DEFINITION) is not None
    assert uninstalled.status["state"] == "Loaded"
    pod = uninstalled.pod()["metadata"]["uid"]
    with uninstalled.speaking() as speech:
        assert WORDS in speech.transcribe()
    releases.shared()
    uninstalled.patch(desiredState="Unloaded")
    uninstalled.wait_for(state="Unloaded")
    assert uninstalled.pod()["metadata"]["uid"] == pod


def test_a_namespace_with_a_model_can_be_deleted_without_an_operator(cluster: Cluster, uninstalled: Model) -> None:
    cluster.delete_namespace(uninstalled.namespace)
    path = f"/api/v1/namespaces/{uninstalled.namespace}"
    eventually(lambda: cluster.get(path) is None, "the namespace is gone", seconds=60)


def test_without_keep_the_crd_and_its_models_are_deleted_with_the_release(
    cluster: Cluster, running: Model, release: Release, releases: Releases
) -> None:
    release.apply(crds={"enabled": True, "keep": False})
    releases.clear()
    eventually(lambda: cluster.get(DEFINITION) is None, "the CRD is gone", seconds=60)
    eventually(lambda: not running.pods(), "the pods of the models are gone", seconds=60)
