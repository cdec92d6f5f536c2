"""The objects that the operator creates for a model."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, cast

import pytest

from testing.planner_cases import spec_of
from whisper_inference.api.auth import KeyRing, Scope
from whisper_inference.errors import ScopeMissing
from whisper_inference.settings import Settings, load_settings, setting_names
from whisper_operator.resources.deployment import CONTAINER, Defaults, deployment
from whisper_operator.resources.identity import Identity
from whisper_operator.resources.keys_secret import keys_secret, operator_key
from whisper_operator.resources.network_policy import network_policy
from whisper_operator.resources.service import service
from whispermodel.catalog import ComputeType, Device, Engine
from whispermodel.spec import Spec

Json = dict[str, Any]
IDENTITY = Identity("speech", "base", "uid-1")
DEFAULTS = Defaults("whisper-inference:0.1.0")
SHA = "ab" * 32
EVERYTHING = {
    "model": {
        "size": "large-v3",
        "engine": "faster-whisper",
        "device": "cuda",
        "computeType": "int8",
        "source": {"path": "/models/large", "sha256": SHA},
    },
    "queue": {"maxWaiting": 7, "maxAudioBytes": "2Gi", "maxWait": "90s"},
    "cache": {"persistentVolumeClaim": "whisper-weights"},
}
SPECS = [
    pytest.param({}, id="the smallest"),
    pytest.param(EVERYTHING, id="all that a model can say"),
    pytest.param({"queue": {"maxAudioBytes": "500Mi"}}, id="less room than one file may take by itself"),
    pytest.param({"queue": {"maxAudioBytes": 1}}, id="hardly any room"),
    pytest.param({"queue": {"maxWaiting": 0, "maxWait": "0s"}}, id="nobody may wait"),
    pytest.param({"pod": {"terminationGracePeriodSeconds": 0}}, id="no grace"),
    pytest.param({"pod": {"terminationGracePeriodSeconds": 86400}}, id="a day of grace"),
    pytest.param({"model": {"size": "turbo"}}, id="a size by its other name"),
]


def made(spec: Spec | None = None, *, replicas: int | None = 1, **parts: Any) -> Json:
    body = deployment(IDENTITY, spec or spec_of(**parts), replicas=replicas, defaults=DEFAULTS)
    return cast("Json", body)


def pod_in(**parts: Any) -> Json:
    return made(**parts)["spec"]["template"]["spec"]


def container_in(**parts: Any) -> Json:
    [container] = pod_in(**parts)["containers"]
    return container


def environment_in(**parts: Any) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container_in(**parts)["env"]}


def server_settings(**parts: Any) -> Settings:
    """Return the settings that the pod's server reads from its environment."""
    return load_settings(environment_in(**parts), dotenv=None)


class TestIdentity:
    @pytest.mark.parametrize("body", [made(), service(IDENTITY)], ids=["Deployment", "Service"])
    def test_every_object_has_the_models_name_labels_and_owner(self, body: Any) -> None:
        metadata = body["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("base", "speech")
        assert metadata["labels"]["audio-transcriber.io/whispermodel"] == "base"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "whisper-operator"
        assert metadata["ownerReferences"] == [
            {
                "apiVersion": "audio-transcriber.io/v1alpha1",
                "kind": "WhisperModel",
                "name": "base",
                "uid": "uid-1",
                "controller": True,
            }
        ]

    def test_selector_matches_the_pods_and_is_stable(self) -> None:
        selector = made()["spec"]["selector"]["matchLabels"]
        labels = made(**EVERYTHING, pod={"labels": {"team": "speech"}})["spec"]["template"]["metadata"]["labels"]
        assert selector == {
            "app.kubernetes.io/name": "whisper-inference",
            "audio-transcriber.io/whispermodel": "base",
        }
        assert selector.items() <= labels.items()
        assert selector == cast("Json", service(IDENTITY))["spec"]["selector"]


class TestReplacing:
    def test_single_replica_is_recreated(self) -> None:
        assert made()["spec"]["strategy"] == {"type": "Recreate"}

    def test_several_replicas_roll_without_surge(self) -> None:
        assert made(spec_of(replicas=2))["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        }

    def test_grace_period_is_an_hour_and_drain_is_shorter(self) -> None:
        assert pod_in()["terminationGracePeriodSeconds"] == 3600
        assert server_settings().drain.total_seconds() == 3570

    @pytest.mark.parametrize(("grace", "drain"), [(0, 0), (30, 0), (31, 1), (86400, 86370)])
    def test_grace_period_of_the_spec_is_used(self, grace: int, drain: int) -> None:
        asked = {"pod": {"terminationGracePeriodSeconds": grace}}
        assert pod_in(**asked)["terminationGracePeriodSeconds"] == grace
        assert server_settings(**asked).drain.total_seconds() == drain

    def test_replicas_of_another_scaler_are_left_out(self) -> None:
        assert "replicas" not in made(replicas=None)["spec"]
        assert made(replicas=0)["spec"]["replicas"] == 0


class TestEnvironment:
    @pytest.mark.parametrize("parts", SPECS)
    def test_server_accepts_every_variable(self, parts: Json) -> None:
        environment = environment_in(**parts)
        assert set(environment) <= setting_names()
        assert load_settings(environment, dotenv=None).host == "0.0.0.0"

    def test_environment_follows_the_spec(self) -> None:
        settings = server_settings(**EVERYTHING)
        assert (settings.model, settings.engine) == ("large-v3", Engine.FASTER_WHISPER)
        assert (settings.device, settings.compute_type) == (Device.CUDA, ComputeType.INT8)
        assert (settings.model_path, settings.model_sha256) == (Path("/models/large"), SHA)
        assert (settings.max_waiting, settings.max_stored_bytes) == (7, 2 * 2**30)
        assert settings.max_wait.total_seconds() == 90

    def test_server_neither_preloads_nor_unloads_by_itself(self) -> None:
        settings = server_settings()
        assert (settings.preload_model, settings.unload_after) == (False, None)

    def test_unset_fields_are_left_to_the_server(self) -> None:
        absent = {"WHISPER_DEVICE", "WHISPER_COMPUTE_TYPE", "WHISPER_MODEL_PATH", "WHISPER_MODEL_SHA256"}
        assert absent.isdisjoint(environment_in())

    def test_variables_of_the_spec_are_passed_on(self) -> None:
        own = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}
        assert own in container_in(pod={"env": [own]})["env"]

    def test_service_links_are_disabled(self) -> None:
        assert pod_in()["enableServiceLinks"] is False


class TestSecurity:
    """The Pod Security Standard `restricted`."""

    def test_pod_meets_the_restricted_standard(self) -> None:
        security = pod_in()["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}

    def test_container_is_unprivileged_with_a_read_only_root(self) -> None:
        assert container_in()["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = [mount["mountPath"] for mount in container_in()["volumeMounts"] if not mount.get("readOnly")]
        settings = server_settings()
        assert {str(settings.data_dir), str(settings.cache_dir), "/tmp"} == set(writable)

    def test_pod_has_no_service_account_token(self) -> None:
        assert pod_in()["automountServiceAccountToken"] is False

    def test_volume_types_meet_the_restricted_standard(self) -> None:
        kinds = {kind for volume in pod_in(**EVERYTHING)["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}

    @pytest.mark.parametrize("parts", SPECS)
    def test_every_mount_has_its_volume(self, parts: Json) -> None:
        volumes = [volume["name"] for volume in pod_in(**parts)["volumes"]]
        assert {mount["name"] for mount in container_in(**parts)["volumeMounts"]} == set(volumes)
        assert len(volumes) == len(set(volumes))


class TestPod:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("imagePullSecrets", [{"name": "registry"}]),
            ("nodeSelector", {"gpu": "t4"}),
            ("tolerations", [{"key": "nvidia.com/gpu", "operator": "Exists"}]),
            ("affinity", {"nodeAffinity": {}}),
            ("priorityClassName", "high"),
            ("runtimeClassName", "nvidia"),
            ("serviceAccountName", "speech"),
        ],
    )
    def test_pod_fields_of_the_spec_are_passed_on(self, field: str, value: Any) -> None:
        assert pod_in(pod={field: value})[field] == value
        assert field not in pod_in()

    def test_container_fields_of_the_spec_are_passed_on(self) -> None:
        resources = {"limits": {"nvidia.com/gpu": 1}}
        assert container_in(pod={"resources": resources})["resources"] == resources
        assert "resources" not in container_in()

    def test_volumes_and_mounts_are_added(self) -> None:
        volume, mount = {"name": "certs", "emptyDir": {}}, {"name": "certs", "mountPath": "/certs"}
        asked = {"pod": {"volumes": [volume], "volumeMounts": [mount]}}
        assert volume in pod_in(**asked)["volumes"]
        assert mount in container_in(**asked)["volumeMounts"]
        assert len(container_in(**asked)["volumeMounts"]) == 1 + len(container_in()["volumeMounts"])

    def test_entry_of_the_same_name_replaces_ours(self) -> None:
        waiting = {"name": "WHISPER_MAX_WAITING", "value": "5"}
        data = {"name": "data", "persistentVolumeClaim": {"claimName": "jobs"}}
        mount = {"name": "scratch", "mountPath": "/tmp"}
        asked = {"pod": {"env": [waiting, waiting], "volumes": [data], "volumeMounts": [mount]}}
        container = container_in(**asked)
        assert [entry for entry in container["env"] if entry["name"] == waiting["name"]] == [waiting]
        assert [volume for volume in pod_in(**asked)["volumes"] if volume["name"] == "data"] == [data]
        assert [one for one in container["volumeMounts"] if one["mountPath"] == "/tmp"] == [mount]

    def test_labels_and_annotations_are_merged_and_ours_win(self) -> None:
        labels = {"team": "speech", "app.kubernetes.io/name": "mine"}
        metadata = made(pod={"labels": labels, "annotations": {"note": "x"}})["spec"]["template"]["metadata"]
        assert metadata["labels"]["team"] == "speech"
        assert metadata["labels"]["app.kubernetes.io/name"] == "whisper-inference"
        assert metadata["annotations"] == {"note": "x"}

    @pytest.mark.parametrize(
        ("pod", "image", "policy"),
        [
            pytest.param({}, "whisper-inference:0.1.0", "IfNotPresent", id="the operator's"),
            pytest.param({"image": "mine:1", "imagePullPolicy": "Never"}, "mine:1", "Never", id="their own"),
        ],
    )
    def test_image(self, pod: Json, image: str, policy: str) -> None:
        container = container_in(pod=pod)
        assert (container["name"], container["image"], container["imagePullPolicy"]) == (CONTAINER, image, policy)

    def test_models_volume_is_the_claim_or_an_empty_dir(self) -> None:
        def models(**parts: Any) -> Json:
            return next(volume for volume in pod_in(**parts)["volumes"] if volume["name"] == "models")

        assert models() == {"name": "models", "emptyDir": {}}
        assert models(**EVERYTHING)["persistentVolumeClaim"] == {"claimName": "whisper-weights"}

    def test_each_probe_has_its_own_health_route(self) -> None:
        container = container_in()
        paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
        assert paths == {"startup": "/health/startup", "readiness": "/health/ready", "liveness": "/health/live"}

    def test_same_spec_gives_the_same_document(self) -> None:
        assert made(**EVERYTHING) == made(**EVERYTHING)


class TestService:
    def test_service_is_headless_and_targets_the_server(self) -> None:
        spec = cast("Json", service(IDENTITY))["spec"]
        assert spec["clusterIP"] == "None"
        [port] = spec["ports"]
        [exposed] = container_in()["ports"]
        assert (port["port"], port["targetPort"]) == (server_settings().port, exposed["name"])
        assert exposed["containerPort"] == server_settings().port


class TestNetworkPolicy:
    def made(self, peers: list[Any] | None) -> Json:
        return cast("Json", network_policy(IDENTITY, peers))["spec"]

    def test_policy_allows_only_the_peers(self) -> None:
        peer = {"podSelector": {"matchLabels": {"app": "gateway"}}}
        spec = self.made([peer])
        assert spec["podSelector"]["matchLabels"] == made()["spec"]["selector"]["matchLabels"]
        assert (spec["policyTypes"], spec["ingress"]) == (["Ingress"], [{"from": [peer]}])

    def test_policy_without_peers_allows_nobody(self) -> None:
        assert self.made([])["ingress"] == []

    def test_reverted_policy_allows_everybody(self) -> None:
        assert self.made(None)["ingress"] == [{}]


class TestKeys:
    def file_of(self, secret: Json, folder: Path) -> KeyRing:
        """Return the keys as the pod's server reads them from the mounted Secret."""
        [volume] = [volume for volume in pod_in()["volumes"] if "secret" in volume]
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        [item] = volume["secret"]["items"]
        named = server_settings().api_keys_file
        assert named is not None
        assert named.name == item["path"]
        path = folder / item["path"]
        path.write_bytes(base64.b64decode(secret["data"][item["key"]]))
        return KeyRing(path)

    def test_key_file_contains_the_operators_key(self, tmp_path: Path) -> None:
        secret = cast("Json", keys_secret("speech", operator="s3cret", client="cl1ent"))
        principal = self.file_of(secret, tmp_path).authorise("Bearer s3cret", Scope.OPERATOR)
        assert principal.name == "whisper-operator"
        assert principal.trigger == "operator"

    def test_client_key_may_load_and_unload(self, tmp_path: Path) -> None:
        secret = cast("Json", keys_secret("speech", operator="s3cret", client="cl1ent"))
        assert base64.b64decode(secret["data"]["client"]) == b"cl1ent"
        principal = self.file_of(secret, tmp_path).authorise("Bearer cl1ent", Scope.CONTROL)
        assert principal.trigger == "manual"
        with pytest.raises(ScopeMissing):
            self.file_of(secret, tmp_path).authorise("Bearer cl1ent", Scope.OPERATOR)

    def test_key_file_contains_digests_only(self) -> None:
        [volume] = [volume for volume in pod_in()["volumes"] if "secret" in volume]
        secret = cast("Json", keys_secret("speech", operator="s3cret", client="cl1ent"))
        shown = [base64.b64decode(secret["data"][item["key"]]) for item in volume["secret"]["items"]]
        assert all(b"s3cret" not in text and b"cl1ent" not in text for text in shown)

    def test_operators_key_is_read_from_the_secret(self) -> None:
        assert (
            operator_key(cast("dict[str, object]", keys_secret("speech", operator="s3cret", client="cl1ent")))
            == "s3cret"
        )

    @pytest.mark.parametrize("key", ["schlüssel", "s3cret\n", "a\x00b"])
    def test_key_unfit_for_a_header_is_ignored(self, key: str) -> None:
        assert operator_key(cast("dict[str, object]", keys_secret("speech", operator=key, client="cl1ent"))) is None

    def test_binary_key_is_ignored(self) -> None:
        secret = keys_secret("speech", operator="s3cret", client="cl1ent")
        damaged = {**secret, "data": {**cast("Json", secret["data"]), "operator": "//4="}}
        assert operator_key(cast("dict[str, object]", damaged)) is None

    def test_key_missing_from_the_key_file_is_ignored(self) -> None:
        data = cast("Json", keys_secret("speech", operator="s3cret", client="cl1ent")["data"])
        others = cast("Json", keys_secret("speech", operator="other", client="cl1ent")["data"])
        assert operator_key({"data": {**data, "keys.yaml": others["keys.yaml"]}}) is None
        assert operator_key({"data": {"operator": data["operator"]}}) is None

    @pytest.mark.parametrize("secret", [{}, {"data": None}, {"data": {}}, {"data": {"operator": ""}}])
    def test_secret_without_a_key_has_none(self, secret: dict[str, object]) -> None:
        assert operator_key(secret) is None

    def test_secret_is_in_the_models_namespace_without_owner(self) -> None:
        metadata = cast("Json", keys_secret("speech", operator="k", client="cl1ent"))["metadata"]
        assert metadata["namespace"] == "speech"
        assert "ownerReferences" not in metadata
