"""The operator runs with the service account, permissions and environment that the chart gives it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from testing.api_server import ApiServer
from testing.chart.helm import CHART, Release
from testing.chart.releases import declare, keys
from testing.operator_process import OperatorProcess, eventually

Json = dict[str, Any]

CHECK = CHART / "files" / "reachable.py"
CHILDREN = ("apis/apps/v1", "deployments"), ("api/v1", "services"), ("apis/networking.k8s.io/v1", "networkpolicies")


def kubeconfig_of(release: Release, api: ApiServer, folder: Path) -> Path:
    """Return a kubeconfig for the service account of the release's pods."""
    account = release.objects().the("Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    token = api.kubectl("create", "token", account, "--namespace", release.namespace).strip()
    content = yaml.safe_load(api.kubeconfig().read_text())
    content["users"][0]["user"] = {"token": token}
    path = folder / f"{release.namespace}.kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


@contextmanager
def running(release: Release, api: ApiServer, folder: Path) -> Iterator[OperatorProcess]:
    """Run the operator as in the release's pod, except for its ports, until the block ends."""
    environment = {"KUBECONFIG": str(kubeconfig_of(release, api, folder))}
    given = release.objects().environment()
    environment |= {name: value for name, value in given.items() if not name.endswith("_PORT")}
    operator = OperatorProcess(api, folder / f"{release.namespace}.log", environment)
    operator.start()
    try:
        yield operator
    finally:
        operator.stop()
        print(operator.log.read_text())


def has_children(api: ApiServer, namespace: str, name: str) -> bool:
    """Return whether the operator has created all objects of a model."""
    paths = [f"/{group}/namespaces/{namespace}/{plural}/{name}" for group, plural in CHILDREN]
    secret = f"/api/v1/namespaces/{namespace}/secrets/whisper-operator-keys"
    return all(api.client().get(path).is_success for path in (*paths, secret))


def message_of(api: ApiServer, namespace: str, name: str) -> str:
    path = f"/apis/audio-transcriber.io/v1alpha1/namespaces/{namespace}/whispermodels/{name}"
    return api.client().get(path).json().get("status", {}).get("message", "")


def writers(api: ApiServer, namespace: str) -> set[str]:
    """Return the service accounts that wrote, or tried to write, in a namespace."""
    users = {one["user"]["username"] for one in api.writes() if one["objectRef"].get("namespace") == namespace}
    return {user for user in users if user.startswith("system:serviceaccount:")}


def forbidden_to(api: ApiServer, namespace: str) -> list[str]:
    """Return the writes of an operator that were forbidden."""
    account = f"system:serviceaccount:{namespace}:"
    events = [one for one in api.writes() if one["user"]["username"].startswith(account)]
    return [one["requestURI"] for one in events if one.get("responseStatus", {}).get("code") == 403]


def test_two_operators_manage_their_own_namespaces(
    release: Callable[..., Release], empty_cluster: ApiServer, tmp_path: Path
) -> None:
    local, remote = release(), release()
    elsewhere = empty_cluster.make_namespace(f"{remote.namespace}-speech")
    local.install(namespaces=[local.namespace])
    remote.install(namespaces=[elsewhere], keys={"create": False}, crds={"enabled": False})
    with ExitStack() as operators:
        for one, namespace in ((local, local.namespace), (remote, elsewhere)):
            declare(empty_cluster, namespace, "base")
            operators.enter_context(running(one, empty_cluster, tmp_path))
        for namespace in (local.namespace, elsewhere):
            eventually(lambda where=namespace: has_children(empty_cluster, where, "base"), "the model's objects")
            eventually(lambda where=namespace: message_of(empty_cluster, where, "base"), "the model's status")
    for one, namespace in ((local, local.namespace), (remote, elsewhere)):
        assert writers(empty_cluster, namespace) == {f"system:serviceaccount:{one.namespace}:{one.name}"}
        assert forbidden_to(empty_cluster, one.namespace) == []


def test_an_operator_of_all_namespaces_is_healthy_and_manages_a_model_elsewhere(
    release: Callable[..., Release], empty_cluster: ApiServer, tmp_path: Path
) -> None:
    one = release()
    one.install()
    elsewhere = empty_cluster.make_namespace(f"{one.namespace}-speech")
    declare(empty_cluster, elsewhere, "base")
    with running(one, empty_cluster, tmp_path) as operator:
        eventually(lambda: has_children(empty_cluster, elsewhere, "base"), "the model's objects")
        eventually(lambda: message_of(empty_cluster, elsewhere, "base"), "the model's status")
        health = f"http://127.0.0.1:{operator.health_port}/healthz"
        metrics = f"http://127.0.0.1:{operator.metrics_port}/metrics"
        success = helm_test(health, metrics)
        # Any page can stand for the gateway's readiness.
        with_gateway = helm_test(health, metrics, f"{health}?gateway")
        failure = helm_test(health, health)
    assert forbidden_to(empty_cluster, one.namespace) == []
    assert success.returncode == 0, success.stderr
    assert with_gateway.returncode == 0, with_gateway.stderr
    assert f"{health}?gateway: " in with_gateway.stdout
    assert (failure.returncode, failure.stderr.strip()) == (1, f"{health}: not the operator's metrics")


def helm_test(*urls: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, *urls], capture_output=True, text=True, timeout=90)


def test_existing_keys_are_kept_and_missing_entries_are_reported(
    release: Callable[..., Release], empty_cluster: ApiServer, tmp_path: Path
) -> None:
    one = release()
    path = f"/api/v1/namespaces/{one.namespace}/secrets/whisper-operator-keys"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "whisper-operator-keys"}}
    empty_cluster.apply(path, secret | {"data": {"operator": "YQ=="}})
    one.install()
    one.upgrade(one.chart)
    declare(empty_cluster, one.namespace, "base")
    with running(one, empty_cluster, tmp_path):
        eventually(
            lambda: "lacks the key in its entry 'operator'" in degraded(empty_cluster, one.namespace, "base"),
            "the missing entry is reported",
        )
    one.uninstall()
    assert keys(empty_cluster, one.namespace) == {"operator": "YQ=="}


def degraded(api: ApiServer, namespace: str, name: str) -> str:
    path = f"/apis/audio-transcriber.io/v1alpha1/namespaces/{namespace}/whispermodels/{name}"
    conditions = api.client().get(path).json().get("status", {}).get("conditions", [])
    return "".join(one["message"] for one in conditions if one["type"] == "Degraded")
