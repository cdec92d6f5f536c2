"""Install, upgrade and uninstall releases on a real API server, also side by side."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from testing.api_server import ApiServer
from testing.chart.helm import Helm, HelmFailed, Release
from testing.chart.releases import CRD, declare, keys, models, of_size
from testing.operator_process import eventually

Json = dict[str, Any]
MakeRelease = Callable[..., Release]

KEPT = {"helm.sh/resource-policy": "keep"}


def uid_of_the_crd(api: ApiServer) -> str:
    """Return the CRD's uid; fail if it is being deleted, which deletes its objects first."""
    metadata = api.client().get(CRD).json()["metadata"]
    assert "deletionTimestamp" not in metadata
    return metadata["uid"]


def test_an_upgrade_to_another_version_keeps_crd_keys_and_models(
    release: MakeRelease, cluster_helm: Helm, empty_cluster: ApiServer
) -> None:
    one = release(chart=cluster_helm.package("0.1.0"))
    one.install()
    declare(empty_cluster, one.namespace, "applied")
    one.upgrade(one.chart, models=[of_size("tiny", name="listed")])
    before = keys(empty_cluster, one.namespace), uid_of_the_crd(empty_cluster), models(empty_cluster, one.namespace)
    assert set(before[0]) == {"operator", "client", "keys.yaml"}
    assert set(before[2]) == {"applied", "listed"}

    one.upgrade(cluster_helm.package("0.2.0"), models=[of_size("tiny", name="listed")])

    assert one.objects().environment()["WHISPER_OPERATOR_IMAGE"] == "whisper-inference:0.2.0"
    after = keys(empty_cluster, one.namespace), uid_of_the_crd(empty_cluster), models(empty_cluster, one.namespace)
    assert after == before


def test_an_upgrade_updates_the_crd(release: MakeRelease, empty_cluster: ApiServer) -> None:
    one = release()
    one.install()
    crd = empty_cluster.client().get(CRD).json()
    older = {"spec": crd["spec"] | {"names": crd["spec"]["names"] | {"shortNames": ["old"]}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert empty_cluster.client().patch(CRD, json=older, headers=merge).is_success
    one.upgrade(one.chart)
    assert empty_cluster.client().get(CRD).json()["spec"]["names"]["shortNames"] == ["wm"]


def test_an_uninstall_keeps_crd_keys_and_whispermodels(release: MakeRelease, empty_cluster: ApiServer) -> None:
    one = release()
    one.install()
    declare(empty_cluster, one.namespace, "applied")
    listed = [of_size("tiny", name="goes"), of_size("tiny", name="stays", annotations=KEPT)]
    one.upgrade(one.chart, models=listed)
    before, crd = keys(empty_cluster, one.namespace), uid_of_the_crd(empty_cluster)

    one.uninstall()

    assert (keys(empty_cluster, one.namespace), uid_of_the_crd(empty_cluster)) == (before, crd)
    assert set(models(empty_cluster, one.namespace)) == {"applied", "stays"}
    deployments = f"/apis/apps/v1/namespaces/{one.namespace}/deployments"
    assert empty_cluster.client().get(deployments).json()["items"] == []


def test_a_new_install_with_the_same_name_adopts_what_was_kept(release: MakeRelease, empty_cluster: ApiServer) -> None:
    one = release()
    one.install()
    before, crd = keys(empty_cluster, one.namespace), uid_of_the_crd(empty_cluster)
    one.uninstall()
    one.install()
    assert (keys(empty_cluster, one.namespace), uid_of_the_crd(empty_cluster)) == (before, crd)


def test_an_uninstall_deletes_the_crd_and_all_models_unless_kept(
    release: MakeRelease, empty_cluster: ApiServer
) -> None:
    one = release()
    one.install(crds={"keep": False})
    declare(empty_cluster, one.namespace, "applied")
    one.uninstall()
    eventually(lambda: empty_cluster.client().get(CRD).status_code == 404, "the CRD and its objects are gone")


def test_a_model_that_is_no_longer_listed_is_deleted(release: MakeRelease, empty_cluster: ApiServer) -> None:
    one = release()
    one.install()
    one.upgrade(one.chart, models=[of_size("tiny", name="a"), of_size("tiny", name="b")])
    one.upgrade(one.chart, models=[of_size("tiny", name="b")])
    assert set(models(empty_cluster, one.namespace)) == {"b"}


def test_models_in_the_same_install_as_the_crd_fail_with_instructions(
    release: MakeRelease, empty_cluster: ApiServer
) -> None:
    one = release()
    with pytest.raises(HelmFailed) as failure:
        one.install(models=[of_size("tiny", name="a")])
    instructions = f"Install without models (--set-json models=[]), then add them with: helm upgrade {one.name} CHART"
    assert instructions in str(failure.value)
    assert empty_cluster.client().get(CRD).status_code == 404


def test_the_keys_can_be_left_to_the_operator(release: MakeRelease, empty_cluster: ApiServer) -> None:
    one = release()
    one.install(keys={"create": False})
    assert keys(empty_cluster, one.namespace) == {}


@pytest.mark.parametrize("listed", [[], [of_size("tiny", name="dictation")]], ids=["no models", "a model"])
def test_the_three_commands_in_the_notes_work(
    release: MakeRelease, empty_cluster: ApiServer, listed: list[Json]
) -> None:
    one = release()
    one.install()
    notes = one.upgrade(one.chart, models=listed).partition("NOTES:")[2]
    commands = [text.strip() for text in notes.split("\n\n") if text.strip().startswith("kubectl")]
    assert len(commands) == 3
    assert f"-n {one.namespace} rollout status deployment/{one.name} " in commands[0]
    for command in commands[1:]:
        _run(command, empty_cluster)
    assert set(models(empty_cluster, one.namespace)) == {"dictation" if listed else "base"}


def _run(command: str, api: ApiServer) -> str:
    """Run a command as copied from the notes."""
    lines = "\n".join(line.removeprefix("   ") for line in command.splitlines())
    path = f"{api.programs}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(api.folder), "KUBECONFIG": str(api.kubeconfig())}
    done = subprocess.run(["bash", "-euc", lines], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    return done.stdout


def test_two_releases_with_the_same_name_coexist(release: MakeRelease, empty_cluster: ApiServer) -> None:
    first, second = release(), release()
    first.install(namespaces=[first.namespace])
    second.install(namespaces=[second.namespace], crds={"enabled": False})
    first.uninstall()
    assert second.objects().the("Deployment")["metadata"]["namespace"] == second.namespace
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{second.namespace}/roles"
    there = {one["metadata"]["name"] for one in empty_cluster.client().get(roles).json()["items"]}
    assert there == {second.name, f"{second.name}-leader"}


def test_a_second_operator_of_all_namespaces_is_rejected(release: MakeRelease, empty_cluster: ApiServer) -> None:
    first, second = release(), release("other")
    first.install()
    with pytest.raises(HelmFailed, match=f"release 'whisper-operator' in namespace '{first.namespace}' already"):
        second.install(crds={"enabled": False})
    first.upgrade(first.chart)
    second.install(crds={"enabled": False}, namespaces=[second.namespace])
