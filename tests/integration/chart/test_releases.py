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

EXPANDABLE = {"provisioner": "example.com/none", "allowVolumeExpansion": True}
KEPT = {"helm.sh/resource-policy": "keep"}


def uid_of_the_crd(api: ApiServer) -> str:
    """Return the CRD's uid; fail if it is being deleted, which deletes its objects first."""
    metadata = api.client().get(CRD).json()["metadata"]
    assert "deletionTimestamp" not in metadata
    return metadata["uid"]


def claim_of_the_gateway(api: ApiServer, namespace: str) -> str:
    """Return the uid of the claim with the gateway's jobs, or an empty string."""
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/whisper-gateway"
    return api.client().get(path).json()["metadata"].get("uid", "")


def bind(api: ApiServer, namespace: str) -> None:
    """Bind the gateway's claim to a volume of a storage class that allows expansion, as a provisioner would."""
    storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "elastic"}}
    api.apply("/apis/storage.k8s.io/v1/storageclasses/elastic", storage | EXPANDABLE)
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/whisper-gateway"
    merge = {"Content-Type": "application/merge-patch+json"}
    given = {"spec": {"storageClassName": "elastic", "volumeName": "volume"}}
    assert api.client().patch(path, json=given, headers=merge).is_success
    status = {"status": {"phase": "Bound", "capacity": {"storage": "20Gi"}}}
    assert api.client().patch(f"{path}/status", json=status, headers=merge).is_success


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


def test_an_upgrade_adds_the_gateway_and_another_removes_it_without_its_jobs(
    release: MakeRelease, empty_cluster: ApiServer
) -> None:
    one = release()
    one.install(gateway={"enabled": False})
    assert claim_of_the_gateway(empty_cluster, one.namespace) == ""
    one.upgrade(one.chart, gateway={"enabled": True})
    claim = claim_of_the_gateway(empty_cluster, one.namespace)
    assert claim
    one.upgrade(one.chart, gateway={"enabled": False})
    assert one.objects().of("StatefulSet") == []
    one.upgrade(one.chart, gateway={"enabled": True})
    assert claim_of_the_gateway(empty_cluster, one.namespace) == claim


@pytest.mark.parametrize(
    "persistence",
    [{"size": "50Gi"}, {"enabled": False}, {"existingClaim": "jobs"}],
    ids=["larger", "switched off", "another claim"],
)
def test_an_upgrade_can_change_the_gateways_volume(
    release: MakeRelease, empty_cluster: ApiServer, persistence: Json
) -> None:
    one = release()
    one.install()
    bind(empty_cluster, one.namespace)
    one.upgrade(one.chart, gateway={"persistence": persistence})


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


def commands_in(output: str) -> list[str]:
    """Return the commands in the notes of a release, one for each step."""
    notes = output.partition("NOTES:")[2]
    return [text.strip() for text in notes.split("\n\n") if text.strip().startswith("kubectl")]


@pytest.mark.parametrize("listed", [[], [of_size("tiny", name="dictation")]], ids=["no models", "a model"])
def test_the_commands_in_the_notes_work(release: MakeRelease, empty_cluster: ApiServer, listed: list[Json]) -> None:
    one = release()
    one.install()
    wait, *steps, transcribe = commands_in(one.upgrade(one.chart, models=listed))
    assert f"-n {one.namespace} rollout status deployment/{one.name} " in wait
    assert f"-n {one.namespace} rollout status statefulset/whisper-gateway " in wait
    assert f"-n {one.namespace} port-forward service/whisper-gateway 8002" in transcribe
    assert f"-F model={'dictation' if listed else 'base'} " in transcribe
    assert len(steps) == 2
    for command in steps:
        _run(command, empty_cluster)
    assert set(models(empty_cluster, one.namespace)) == {"dictation" if listed else "base"}


def test_the_notes_name_a_model_outside_the_releases_namespace(release: MakeRelease, empty_cluster: ApiServer) -> None:
    one = release()
    served = empty_cluster.make_namespace(f"{one.namespace}-speech")
    *_, transcribe = commands_in(one.install(namespaces=[served]))
    assert f"-F model={served}/base " in transcribe


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gateway": {"persistence": {"enabled": False}}}, "are lost when the gateway's pod is deleted"),
        ({"gateway": {"enabled": False}}, "requests for a model at zero fail"),
        ({"gateway": {"keysSecret": "clients"}}, "in the entry keys.yaml of the Secret clients"),
        ({"keys": {"create": False}}, "the gateway starts when the Secret whisper-operator-keys exists"),
    ],
    ids=["no volume", "no gateway", "other keys", "no keys"],
)
def test_the_notes_say_what_the_values_imply(
    release: MakeRelease, empty_cluster: ApiServer, values: Json, sentence: str
) -> None:
    one = release()
    assert "gateway.persistence.enabled is false" not in one.install()
    assert sentence in one.upgrade(one.chart, **values)


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
    assert there == {second.name, f"{second.name}-leader", f"{second.name}-gateway"}


def test_a_second_operator_of_all_namespaces_is_rejected(release: MakeRelease, empty_cluster: ApiServer) -> None:
    first, second = release(), release("other")
    first.install()
    with pytest.raises(HelmFailed, match=f"release 'whisper-operator' in namespace '{first.namespace}' already"):
        second.install(crds={"enabled": False})
    first.upgrade(first.chart)
    second.install(crds={"enabled": False}, namespaces=[second.namespace])
