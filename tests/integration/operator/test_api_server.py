"""What the other tests rely on: the API server of the tests is a real one, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from testing.api_server import ApiServer, Program, running_api_server
from testing.manifests import manifest
from testing.paths import ROOT
from testing.server_process import wait_until

Json = dict[str, Any]

PODS = "/api/v1/namespaces/{}/pods"
MODELS = "/apis/audio-transcriber.io/v1alpha1/namespaces/{}/whispermodels"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
STARTED_THEN_SILENT = """
import sys, time
from pathlib import Path
from testing.api_server import running_api_server
with running_api_server(Path(sys.argv[1]), Path(sys.argv[2])):
    print("up", flush=True)
    time.sleep(600)
"""


def deployment(owner: Json) -> Json:
    """Return a Deployment that belongs to a WhisperModel."""
    labels = {"app": "base"}
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "base", "ownerReferences": [reference]},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "inference", "image": "none"}]},
            },
        },
    }


def test_a_user_may_do_nothing_that_no_role_grants(api_server: ApiServer, namespace: str) -> None:
    answer = api_server.client("somebody").get(MODELS.format(namespace))
    assert answer.status_code == 403


def test_a_role_grants_what_it_names_and_nothing_else(api_server: ApiServer, namespace: str) -> None:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rules = [{"apiGroups": ["audio-transcriber.io"], "resources": ["whispermodels"], "verbs": ["list"]}]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reads"}, "rules": rules}
    binding = {
        **role,
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}],
    }
    del binding["rules"]
    api_server.apply(f"{rbac}/roles/reads", role)
    api_server.apply(f"{rbac}/rolebindings/reads", binding)
    somebody = api_server.client("somebody")
    wait_until(lambda: somebody.get(MODELS.format(namespace)).is_success, "the role counts", seconds=10)
    assert somebody.post(MODELS.format(namespace), json=manifest({})).status_code == 403


def test_the_audit_log_tells_each_write_and_who_made_it(api_server: ApiServer, namespace: str) -> None:
    api_server.client().post(MODELS.format(namespace), json=manifest({})).raise_for_status()
    api_server.client().get(f"{MODELS.format(namespace)}/base").raise_for_status()
    mine = [
        event
        for event in api_server.writes()
        if event["objectRef"]["resource"] == "whispermodels" and event["objectRef"]["namespace"] == namespace
    ]
    assert [(event["verb"], event["user"]["username"]) for event in mine] == [("create", "admin")]


def test_the_controllers_make_pods_and_delete_what_lost_its_owner(
    api_server: ApiServer, controllers: Program, namespace: str
) -> None:
    admin = api_server.client()
    owner = admin.post(MODELS.format(namespace), json=manifest({})).raise_for_status().json()
    admin.post(DEPLOYMENTS.format(namespace), json=deployment(owner)).raise_for_status()

    def pods() -> list[Json]:
        return admin.get(PODS.format(namespace)).raise_for_status().json()["items"]

    wait_until(pods, "a pod", seconds=30)
    admin.delete(f"{MODELS.format(namespace)}/base").raise_for_status()
    wait_until(lambda: not pods(), "no pod", seconds=60)
    assert admin.get(f"{DEPLOYMENTS.format(namespace)}/base").status_code == 404


def test_a_restarted_api_server_has_its_data_and_its_address(api_server: ApiServer, tmp_path: Path) -> None:
    with running_api_server(tmp_path, api_server.programs) as own:
        own.client().post(MODELS.format("default"), json=manifest({})).raise_for_status()
        own.stop(signal.SIGKILL)
        own.start()
        assert own.client().get(f"{MODELS.format('default')}/base").is_success


def test_everything_ends_with_the_process_that_started_it(api_server: ApiServer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTED_THEN_SILENT, str(tmp_path), str(api_server.programs)]
    starter = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter, starter.stdout:
        assert starter.stdout.readline() == "up\n"
        children = psutil.Process(starter.pid).children(recursive=True)
        starter.kill()
    assert len(children) == 2
    psutil.wait_procs(children, timeout=10)
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
