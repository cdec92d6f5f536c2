"""Story 9: two releases in one cluster, each with its own namespace."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.gateway import Gateway
from e2e.model import Model
from e2e.release import Release, Releases
from e2e.speech import WORDS


@pytest.fixture(scope="module")
def teams(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """The namespaces of two teams."""
    mark = secrets.token_hex(3)
    names = (cluster.make_namespace(f"red-{mark}"), cluster.make_namespace(f"blue-{mark}"))
    yield names
    for name in names:
        cluster.delete_namespace(name)


@pytest.fixture(scope="module")
def operators(teams: tuple[str, str], releases: Releases) -> tuple[Release, Release]:
    """An operator and a gateway in each namespace, with permissions only there. One release installs the CRD."""
    releases.start_afresh()
    red, blue = teams
    without_volume = {"persistence": {"enabled": False}}
    return (
        releases.install("speech", red, namespaces=[red], crds={"enabled": True}, gateway=without_volume),
        releases.install("speech", blue, namespaces=[blue], crds={"enabled": False}, gateway=without_volume),
    )


def test_each_gateway_serves_only_its_own_namespace(cluster: Cluster, operators: tuple[Release, Release]) -> None:
    models = [Model(cluster, release.namespace, "at-zero") for release in operators]
    for model in models:
        model.apply(idle={"scaleToZeroAfter": "15m"})
    for model, release in zip(models, operators, strict=True):
        model.wait_for(state="Zero")
        with Gateway(cluster, release).speaking(model) as speech:
            assert [one["id"] for one in speech.client.get("/v1/models").json()["data"]] == ["at-zero"]
            assert WORDS in speech.transcribe()


def test_each_operator_manages_only_its_own_namespace(
    cluster: Cluster, operators: tuple[Release, Release], teams: tuple[str, str]
) -> None:
    models = [Model(cluster, team, "dictation") for team in teams]
    for model in models:
        model.apply(desiredState="Loaded")
    for model in models:
        model.wait_for(state="Loaded")
        with model.speaking() as speech:
            assert WORDS in speech.transcribe()
    red, blue = operators
    cluster.kubectl("scale", "--namespace", red.namespace, "--replicas=0", f"deployment/{red.name}-whisper-operator")
    for model in models:
        model.patch(desiredState="Unloaded")
    models[1].wait_for(state="Unloaded")
    assert models[0].status["state"] == "Loaded", f"the operator of {blue.namespace} manages another namespace"


def test_an_operator_has_no_permissions_in_another_namespace(
    cluster: Cluster, operators: tuple[Release, Release]
) -> None:
    red, blue = operators
    account = f"system:serviceaccount:{red.namespace}:{red.name}-whisper-operator"
    assert may_patch_deployments(cluster, account, red.namespace) == "true"
    assert may_patch_deployments(cluster, account, blue.namespace) == "false"


def may_patch_deployments(cluster: Cluster, account: str, namespace: str) -> str:
    """Return whether an account has the permission; `kubectl auth can-i` would fail if it has not."""
    asked = {"namespace": namespace, "verb": "patch", "group": "apps", "resource": "deployments"}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": asked},
    }
    return cluster.kubectl("create", "--output=jsonpath={.status.allowed}", "-f", "-", given=json.dumps(review))
