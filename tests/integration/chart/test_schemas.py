"""Every object that the chart can render is one that Kubernetes and the Prometheus operator know."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from testing.api_server import ApiServer
from testing.chart.helm import MONITORING_CRDS, Rendered
from testing.operator_process import eventually

Json = dict[str, Any]

VERSIONS = ("1.31", "1.32", "1.33", "1.34")
OF_OTHERS = {"WhisperModel", "ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds that Kubernetes itself does not know: the API server judges them by their CRDs."""


@cache
def judged(text: str, version: str) -> None:
    """Raise ValidationError unless an object, as JSON, is what a version of Kubernetes knows, and nothing beyond."""
    kubernetes_validate.validate(json.loads(text), version, strict=True)


def test_the_schemas_of_all_versions_are_there() -> None:
    # For a version that it lacks, the library would quietly take an older one.
    versions = {utils.major_minor(one) for one in utils.all_versions()}
    assert set(VERSIONS) <= versions


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        judged(json.dumps(service), VERSIONS[0])


def test_every_object_is_valid_in_all_versions(rendered: Rendered) -> None:
    for one in rendered.objects:
        if one["kind"] not in OF_OTHERS:
            for version in VERSIONS:
                judged(json.dumps(one), version)


class Judge:
    """An API server that says what it would accept, with no field beyond what it knows."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.path_of = cache(self._path_of)
        self.refusal_of = cache(self._refusal_of)

    def _path_of(self, version: str, kind: str) -> tuple[str, str]:
        """Return where a kind's namespaces, or else its objects, begin, and its plural."""
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        [resource] = [
            one
            for one in self.api.client().get(root).json()["resources"]
            if (one["kind"], "/" in one["name"]) == (kind, False)
        ]
        return f"{root}/namespaces" if resource["namespaced"] else root, resource["name"]

    def _refusal_of(self, text: str) -> str:
        """Return why an object, as JSON, is refused; nothing if it is not."""
        body = json.loads(text)
        root, plural = self.path_of(body["apiVersion"], body["kind"])
        place = [body["metadata"].get("namespace", "default")] if root.endswith("/namespaces") else []
        answer = self.api.client().patch(
            "/".join([root, *place, plural, body["metadata"]["name"]]),
            params={"dryRun": "All", "fieldValidation": "Strict", "fieldManager": "tests", "force": "true"},
            content=text,
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        return "" if answer.is_success else f"{body['kind']}: {answer.text}"


@pytest.fixture(scope="session")
def judge(api_server: ApiServer) -> Judge:
    """The API server with the CRDs of the Prometheus operator, and the namespaces that options name."""
    for path in sorted(MONITORING_CRDS.glob("*.yaml")):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)
        api_server.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
        plural = f"/apis/monitoring.coreos.com/v1/{crd['spec']['names']['plural']}"
        eventually(lambda plural=plural: api_server.client().get(plural).is_success, f"{plural} is served")
    for name in ("speech", "whisper-system"):
        api_server.make_namespace(name)
    return Judge(api_server)


def test_the_api_server_accepts_every_object(rendered: Rendered, judge: Judge, whispermodels: None) -> None:
    refusals = [judge.refusal_of(json.dumps(one)) for one in rendered.objects]
    assert [refusal for refusal in refusals if refusal] == []


def test_the_api_server_refuses_a_field_that_it_does_not_know(judge: Judge) -> None:
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "a"}}
    unknown = monitor | {"spec": {"selector": {}, "podMetricsEndpoints": [{"door": "http"}]}}
    assert "field not declared in schema" in judge.refusal_of(json.dumps(unknown))
