"""The gateway's service account may do what the gateway does, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from testing.api_server import ApiServer
from testing.chart.helm import CHART, Release
from testing.operator_process import eventually
from whisper_cluster.names import MODEL_LABEL

Json = dict[str, Any]

RULES: list[Json] = yaml.safe_load((CHART / "files" / "gateway-rules.yaml").read_text())
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
DEMAND = {MODEL_LABEL: "base"}


@dataclass(frozen=True)
class Gateway:
    """The API server, as the gateway of a release sees it."""

    api: ApiServer
    release: Release
    token: str

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        content["headers"] = {"Authorization": f"Bearer {self.token}", **content.get("headers", {})}
        return self.api.client().request(method, path, **content)

    def rules(self, namespace: str) -> list[Json]:
        """Return the account's rules in a namespace, without those that every account has."""
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
        answer = self.request("POST", REVIEWS, json=body | {"spec": {"namespace": namespace}}).raise_for_status()
        every = answer.json()["status"]["resourceRules"]
        return [one for one in every if not one["apiGroups"][0].startswith(("authentication.", "authorization."))]

    def create_lease(self, namespace: str, name: str, labels: dict[str, str]) -> httpx.Response:
        return self.request("POST", LEASES.format(namespace), json=lease(name, labels))

    def change_lease(self, namespace: str, name: str, change: Json) -> httpx.Response:
        merge = {"Content-Type": "application/merge-patch+json"}
        return self.request("PATCH", f"{LEASES.format(namespace)}/{name}", json=change, headers=merge)


def lease(name: str, labels: dict[str, str]) -> Json:
    spec = {"holderIdentity": "gateway", "leaseDurationSeconds": 60}
    head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return {**head, "metadata": {"name": name, "labels": labels}, "spec": spec}


def gateway_of(release: Release, api: ApiServer) -> Gateway:
    account = release.objects().the("StatefulSet")["spec"]["template"]["spec"]["serviceAccountName"]
    return Gateway(api, release, api.kubectl("create", "token", account, "--namespace", release.namespace).strip())


def canonical(rules: list[Json]) -> set[tuple[tuple[str, tuple[str, ...]], ...]]:
    """Return rules so that their order does not matter."""
    return {tuple(sorted((name, tuple(sorted(values))) for name, values in rule.items())) for rule in rules}


def test_in_the_served_namespaces_it_has_the_files_rules_and_elsewhere_none(
    release: Callable[..., Release], empty_cluster: ApiServer
) -> None:
    one = release()
    served = empty_cluster.make_namespace(f"{one.namespace}-speech")
    one.install(namespaces=[served])
    gateway = gateway_of(one, empty_cluster)
    eventually(lambda: canonical(gateway.rules(served)) == canonical(RULES), "the rules of the file")
    assert gateway.rules(one.namespace) == []


def test_a_gateway_of_all_namespaces_has_the_files_rules_everywhere(
    release: Callable[..., Release], empty_cluster: ApiServer
) -> None:
    one = release()
    one.install()
    gateway = gateway_of(one, empty_cluster)
    eventually(lambda: canonical(gateway.rules("default")) == canonical(RULES), "the rules of the file")


@pytest.fixture
def everywhere(release: Callable[..., Release], empty_cluster: ApiServer) -> Gateway:
    """A gateway of all namespaces whose Leases are limited."""
    one = release()
    one.install()
    gateway = gateway_of(one, empty_cluster)
    # The API server compiles a new policy after some time.
    eventually(
        lambda: gateway.create_lease(one.namespace, "probe", {}).status_code == 422, "the policy limits the gateway"
    )
    return gateway


def test_it_writes_demand_leases(everywhere: Gateway) -> None:
    elsewhere = everywhere.api.make_namespace(f"{everywhere.release.namespace}-speech")
    path = f"{LEASES.format(elsewhere)}/base"
    answers = [
        everywhere.create_lease(elsewhere, "base", DEMAND),
        everywhere.change_lease(elsewhere, "base", {"spec": {"leaseDurationSeconds": 30}}),
        everywhere.request("GET", path),
        everywhere.request("DELETE", path),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200]


def test_it_cannot_write_the_leases_of_others(everywhere: Gateway) -> None:
    namespace = everywhere.release.namespace
    for name, labels in (("leader", {}), ("base", DEMAND)):
        everywhere.api.apply(f"{LEASES.format(namespace)}/{name}", lease(name, labels))
    answers = [
        everywhere.change_lease(namespace, "leader", {"spec": {"holderIdentity": "me"}}),
        everywhere.change_lease(namespace, "leader", {"metadata": {"labels": DEMAND}}),
        everywhere.request("DELETE", f"{LEASES.format(namespace)}/leader"),
        everywhere.change_lease(namespace, "base", {"metadata": {"labels": {MODEL_LABEL: None}}}),
    ]
    assert [answer.status_code for answer in answers] == [422] * 4
    assert "the gateway may only" in answers[0].json()["message"]
