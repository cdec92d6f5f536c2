"""The chart's pods and the models' pods satisfy the Pod Security level `restricted`."""

from __future__ import annotations

import secrets
from typing import Any, cast

import pytest

from testing.api_server import ApiServer
from testing.chart.helm import Rendered
from testing.planner_cases import spec_of
from whisper_operator.resources.deployment import Defaults, deployment
from whisper_operator.resources.identity import Identity

Json = dict[str, Any]


@pytest.fixture(scope="session")
def restricted(api_server: ApiServer) -> str:
    """A namespace that enforces the level."""
    name = f"restricted-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    api_server.apply(f"/api/v1/namespaces/{name}", body)
    return name


def rejection_of(api: ApiServer, namespace: str, template: Json) -> str:
    """Return why a pod is rejected, or an empty string if it is admitted."""
    spec = {name: value for name, value in template["spec"].items() if name != "priorityClassName"}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = api.client().post(f"/api/v1/namespaces/{namespace}/pods", params=query, json=body)
    return "" if answer.is_success else answer.json()["message"]


def test_a_pod_without_a_security_context_is_rejected(api_server: ApiServer, restricted: str) -> None:
    bare = {"spec": {"containers": [{"name": "a", "image": "a"}]}}
    assert "violates PodSecurity" in rejection_of(api_server, restricted, bare)


def test_the_charts_pods_are_admitted(rendered: Rendered, api_server: ApiServer, restricted: str) -> None:
    assert {rejection_of(api_server, restricted, pod) for pod in rendered.pods()} == {""}


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({}, id="the smallest"),
        pytest.param({"cache": {"persistentVolumeClaim": "weights"}}, id="with a cache"),
        pytest.param({"pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}, id="with a GPU"),
    ],
)
def test_the_pods_of_models_are_admitted(api_server: ApiServer, restricted: str, parts: Json) -> None:
    made = deployment(
        Identity("speech", "base", "uid"), spec_of(**parts), replicas=1, defaults=Defaults("whisper-inference:0.1.0")
    )
    assert rejection_of(api_server, restricted, cast("Json", made)["spec"]["template"]) == ""
