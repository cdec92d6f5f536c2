"""Every object that the chart can render is valid for Kubernetes and the Prometheus operator."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from testing.api_server import ApiServer
from testing.chart.helm import OTHER_CRDS, Rendered
from testing.operator_process import eventually

Json = dict[str, Any]

VERSIONS = ("1.31", "1.32", "1.33", "1.34")
CUSTOM_KINDS = {"WhisperModel", "ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}
"""Kinds defined by CRDs, which the API server validates."""


@cache
def validate(text: str, version: str) -> None:
    """Raise ValidationError if a JSON object is invalid or has unknown fields in a version of Kubernetes."""
    kubernetes_validate.validate(json.loads(text), version, strict=True)


def test_the_schemas_of_all_versions_are_available() -> None:
    # The library silently falls back to an older version if one is missing.
    versions = {utils.major_minor(one) for one in utils.all_versions()}
    assert set(VERSIONS) <= versions


def test_the_library_rejects_unknown_fields() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(json.dumps(service), VERSIONS[0])


def test_every_object_is_valid_in_all_versions(rendered: Rendered) -> None:
    for one in rendered.objects:
        if one["kind"] not in CUSTOM_KINDS:
            for version in VERSIONS:
                validate(json.dumps(one), version)


class DryRun:
    """Validates objects by strict dry runs on an API server."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.path_of = cache(self._path_of)
        self.rejection_of = cache(self._rejection_of)

    def _path_of(self, version: str, kind: str) -> tuple[str, str]:
        """Return the path of a kind's namespaces, or of the API group if it is cluster-scoped, and its plural."""
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        [resource] = [
            one
            for one in self.api.client().get(root).json()["resources"]
            if (one["kind"], "/" in one["name"]) == (kind, False)
        ]
        return f"{root}/namespaces" if resource["namespaced"] else root, resource["name"]

    def _rejection_of(self, text: str) -> str:
        """Return why a JSON object is rejected, or an empty string if it is accepted."""
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
def dry_run(api_server: ApiServer) -> DryRun:
    """An API server with the CRDs of others that the chart uses and the namespaces named in the options."""
    for path in sorted(file for folder in OTHER_CRDS for file in folder.glob("*.yaml")):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)
        api_server.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
        plural = f"/apis/{crd['spec']['group']}/v1/{crd['spec']['names']['plural']}"
        eventually(lambda plural=plural: api_server.client().get(plural).is_success, f"{plural} is served")
    for name in ("speech", "whisper-system"):
        api_server.make_namespace(name)
    return DryRun(api_server)


def test_the_api_server_accepts_every_object(rendered: Rendered, dry_run: DryRun, whispermodels: None) -> None:
    rejections = [dry_run.rejection_of(json.dumps(one)) for one in rendered.objects]
    assert [rejection for rejection in rejections if rejection] == []


def test_the_api_server_rejects_unknown_fields(dry_run: DryRun) -> None:
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "a"}}
    unknown = monitor | {"spec": {"selector": {}, "podMetricsEndpoints": [{"door": "http"}]}}
    assert "field not declared in schema" in dry_run.rejection_of(json.dumps(unknown))
