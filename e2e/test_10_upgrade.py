"""Story 10: upgrade the chart, the operator, the gateway and the default image while a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.gateway import Gateway
from e2e.model import Model
from e2e.release import CHART, Release, Releases
from e2e.speech import WORDS
from testing.operator_process import eventually
from tools.clusters.choice import provider_of
from tools.images import reference

NEXT = "-next"


@pytest.fixture
def earlier_chart(cluster: Cluster, tmp_path: Path) -> Path:
    """The chart packaged as an earlier version."""
    cluster.run("helm", "package", str(CHART), "--version=0.0.1", "--destination", str(tmp_path))
    [archive] = tmp_path.glob("*.tgz")
    return archive


@pytest.fixture
def earlier_release(releases: Releases, earlier_chart: Path) -> Release:
    """A release of the earlier chart that manages all namespaces."""
    releases.clear()
    return releases.install("whisper", "whisper", chart=earlier_chart)


@pytest.fixture
def next_images(cluster: Cluster) -> Callable[[str], str]:
    """Return a function that gives an image a newer tag in the cluster, and returns the tag."""
    provider = provider_of(cluster.context)
    if provider is None:
        pytest.skip("cannot tag images in this cluster")

    def named(name: str) -> str:
        newer = reference(name) + NEXT
        provider.tag(reference(name), newer)
        return newer.rpartition(":")[2]

    return named


@pytest.mark.parametrize("rest", ["Unloaded", "Zero"])
def test_a_loaded_model_survives_the_upgrade_and_gets_the_new_image_once_unloaded(
    cluster: Cluster, namespace: str, earlier_release: Release, next_images: Callable[[str], str], rest: str
) -> None:
    model = Model(cluster, namespace, "dictation")
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    pod, operators = model.pod()["metadata"], earlier_release.operator_pods()
    keys = f"/api/v1/namespaces/{earlier_release.namespace}/secrets/whisper-operator-keys"
    before = cluster.get(keys)

    newer = next_images("faster-tiny.en")
    earlier_release.values["inference"] = {"image": {"repository": "whisper-inference", "tag": newer}}
    earlier_release.values["gateway"] = {"image": {"tag": next_images("gateway")}}
    earlier_release.apply(image={"tag": next_images("operator")})
    eventually(
        lambda: not set(operators) & set(earlier_release.operator_pods()), "the operator's pod has been replaced"
    )
    assert before is not None
    assert (cluster.get(keys) or {})["data"] == before["data"]
    with model.speaking() as speech, Gateway(cluster, earlier_release).speaking(model) as through_the_gateway:
        assert WORDS in speech.transcribe()
        assert WORDS in through_the_gateway.transcribe()
    # An edit that does not affect the pod, to see that the new operator has reconciled the model.
    model.patch(idle={"unloadAfter": "0s"})
    status = model.wait_for(observedGeneration=model.get()["metadata"]["generation"])
    assert status["state"] == "Loaded"
    assert model.pod()["metadata"]["uid"] == pod["uid"]

    model.patch(desiredState=rest)
    # At Zero there is no pod; otherwise its pod has the new image.
    eventually(lambda: all(image.endswith(newer) for image in images(model)), "no pod has the old image")
    model.wait_for(state=rest)
    model.patch(desiredState="Loaded")
    model.wait_for(state="Loaded")
    assert images(model) == [f"whisper-inference:{newer}"]


def images(model: Model) -> list[str]:
    return [container["image"] for pod in model.pods() for container in pod["spec"]["containers"]]
