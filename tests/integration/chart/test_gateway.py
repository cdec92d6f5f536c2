"""The gateway's objects, as the chart renders them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from testing.chart.helm import CHART, NAMESPACE, RELEASE, Helm, HelmFailed, Rendered
from testing.chart.options import GATEWAY, PEER, PLACEMENT
from whisper_cluster.names import KEYS_SECRET, SERVER_PORT
from whisper_inference.settings import Settings, load_settings

Json = dict[str, Any]

NAME = "whisper-gateway"
SELECTOR = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": RELEASE}
RULES = CHART / "files" / "gateway-rules.yaml"
LIMITS = (
    "max_waiting",
    "max_wait",
    "max_audio_bytes",
    "max_stored_bytes",
    "job_retention",
    "metrics_auth",
)
GATEWAY_ONLY = {"WHISPER_NAMESPACE", "WHISPER_NAMESPACES", "WHISPER_GATEWAY_ID"}


@pytest.fixture
def defaults(helm: Helm) -> Rendered:
    return helm.render()


def pod_of(rendered: Rendered) -> Json:
    return rendered.the("StatefulSet")["spec"]["template"]["spec"]


def volume(rendered: Rendered, name: str) -> Json:
    [found] = [one for one in pod_of(rendered)["volumes"] if one["name"] == name]
    return {kind: source for kind, source in found.items() if kind != "name"}


def mounted_at(rendered: Rendered, name: str) -> str:
    [container] = pod_of(rendered)["containers"]
    [path] = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == name]
    return path


def read(environment: dict[str, str]) -> Settings:
    """Return the settings that the server reads from an environment, apart from those that only a gateway has."""
    return load_settings({name: text for name, text in environment.items() if name not in GATEWAY_ONLY}, dotenv=None)


def objects_of_gateway(rendered: Rendered) -> list[Json]:
    return [one for one in rendered.objects if one["metadata"]["labels"].get("app.kubernetes.io/name") == NAME]


class TestService:
    def test_it_has_the_servers_port_and_selects_the_pod(self, defaults: Rendered) -> None:
        service = defaults.the("Service", NAME)["spec"]
        labels = defaults.the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
        [container] = pod_of(defaults)["containers"]
        assert service["selector"].items() <= labels.items()
        assert service["ports"] == [{"name": "http", "port": SERVER_PORT, "targetPort": "http", "protocol": "TCP"}]
        assert container["ports"] == [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}]

    def test_helm_test_asks_it_whether_the_gateway_is_ready(self, helm: Helm) -> None:
        rendered = helm.render(gateway={"name": "transcribe"})
        [container] = rendered.the("Pod")["spec"]["containers"]
        assert container["command"][-1] == f"http://transcribe.{NAMESPACE}.svc:{SERVER_PORT}/health/ready"

    def test_a_name_applies_to_all_namespaced_objects(self, helm: Helm) -> None:
        rendered = helm.render(gateway={"name": "transcribe", "ingress": {"enabled": True}})
        names = {one["metadata"]["name"] for one in objects_of_gateway(rendered) if "namespace" in one["metadata"]}
        assert names == {"transcribe"}

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            pytest.param({"fullnameOverride": NAME}, "is also the name of the operator's objects", id="objects"),
            pytest.param({"nameOverride": NAME}, "by which the gateway's pods are found", id="labels"),
        ],
    )
    def test_the_operators_name_is_rejected(self, helm: Helm, values: Json, message: str) -> None:
        with pytest.raises(HelmFailed, match=message):
            helm.render(**values)
        helm.render(**values, gateway={"enabled": False})


class TestSettings:
    def test_the_server_reads_them(self, helm: Helm) -> None:
        rendered = helm.render(namespaces=["a", "b"], gateway=GATEWAY["gateway's limits"])
        settings = read(rendered.gateway_environment())
        assert (settings.max_waiting, settings.max_audio_bytes) == (5, 100 * 2**20)
        assert (settings.drain.total_seconds(), settings.max_wait.total_seconds()) == (5400, 30)
        assert (settings.host, settings.port, settings.metrics_auth) == ("0.0.0.0", SERVER_PORT, "key")

    def test_the_limits_default_to_the_servers(self, defaults: Rendered) -> None:
        given, documented = read(defaults.gateway_environment()), Settings()
        assert {name: getattr(given, name) for name in LIMITS} == {name: getattr(documented, name) for name in LIMITS}

    def test_the_pod_says_who_it_is(self, defaults: Rendered) -> None:
        given = defaults.gateway_environment()
        assert given["WHISPER_NAMESPACE"] == "metadata.namespace"
        assert given["WHISPER_GATEWAY_ID"] == "metadata.name"

    def test_it_serves_the_namespaces_that_the_operator_manages(self, helm: Helm, defaults: Rendered) -> None:
        rendered = helm.render(namespaces=["speech", "research"])
        assert rendered.gateway_environment()["WHISPER_NAMESPACES"] == "speech,research"
        assert "WHISPER_NAMESPACES" not in defaults.gateway_environment()

    def test_the_folders_are_those_of_the_volumes(self, defaults: Rendered) -> None:
        given = defaults.gateway_environment()
        assert given["WHISPER_DATA_DIR"] == mounted_at(defaults, "data")
        assert given["WHISPER_API_KEYS_FILE"] == f"{mounted_at(defaults, 'keys')}/keys.yaml"

    def test_services_do_not_appear_among_them(self, defaults: Rendered) -> None:
        assert pod_of(defaults)["enableServiceLinks"] is False

    @pytest.mark.parametrize(("drain", "seconds"), [("0s", 30), ("30s", 60), ("90m", 5430), ("1h30m10s500ms", 5440)])
    def test_the_pod_has_time_to_drain(self, helm: Helm, drain: str, seconds: int) -> None:
        assert pod_of(helm.render(gateway={"drain": drain}))["terminationGracePeriodSeconds"] == seconds


class TestStore:
    def test_it_is_on_a_volume_that_an_uninstall_keeps(self, defaults: Rendered) -> None:
        claim = defaults.the("PersistentVolumeClaim")
        assert volume(defaults, "data") == {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
        assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}}

    def test_the_volume_is_writable(self, defaults: Rendered) -> None:
        security = pod_of(defaults)["securityContext"]
        assert security["fsGroup"] == security["runAsGroup"]

    def test_the_claim_follows_the_values(self, helm: Helm) -> None:
        claim = helm.render(gateway=GATEWAY["gateway's volume"]).the("PersistentVolumeClaim")
        assert claim["spec"]["storageClassName"] == "fast"
        assert claim["spec"]["resources"]["requests"]["storage"] == "100Gi"
        assert "annotations" not in claim["metadata"]

    def test_an_existing_claim_is_used(self, helm: Helm) -> None:
        rendered = helm.render(gateway=GATEWAY["gateway with an existing claim"])
        assert volume(rendered, "data") == {"persistentVolumeClaim": {"claimName": "jobs"}}
        assert rendered.of("PersistentVolumeClaim") == []

    def test_without_persistence_it_is_bounded_and_ends_with_the_pod(self, helm: Helm) -> None:
        rendered = helm.render(gateway=GATEWAY["gateway without a volume"])
        assert volume(rendered, "data") == {"emptyDir": {"sizeLimit": "5Gi"}}
        assert rendered.of("PersistentVolumeClaim") == []

    def test_one_pod_has_it_and_a_broken_one_can_be_updated(self, defaults: Rendered) -> None:
        spec = defaults.the("StatefulSet")["spec"]
        assert (spec["replicas"], spec["podManagementPolicy"]) == (1, "Parallel")


class TestKeys:
    def test_they_are_the_releases(self, defaults: Rendered) -> None:
        [secret] = volume(defaults, "keys").values()
        assert secret == {"secretName": KEYS_SECRET, "items": [{"key": "keys.yaml", "path": "keys.yaml"}]}
        assert defaults.the("Secret")["metadata"]["name"] == KEYS_SECRET

    def test_they_can_come_from_another_secret(self, helm: Helm) -> None:
        [secret] = volume(helm.render(gateway={"keysSecret": "clients"}), "keys").values()
        assert secret["secretName"] == "clients"

    @pytest.mark.parametrize(("secret", "expected"), [("", KEYS_SECRET), ("clients", "clients")])
    def test_prometheus_sends_one_if_metrics_require_it(self, helm: Helm, secret: str, expected: str) -> None:
        gateway = {"metricsAuth": "key", "keysSecret": secret}
        monitor = helm.render(gateway=gateway, serviceMonitor={"enabled": True}).the("ServiceMonitor", NAME)
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["authorization"] == {"credentials": {"name": expected, "key": "client"}}


class TestAccess:
    def test_everybody_reaches_the_api_by_default(self, defaults: Rendered) -> None:
        spec = defaults.the("NetworkPolicy", NAME)["spec"]
        assert spec["podSelector"] == {"matchLabels": SELECTOR}
        assert spec["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]

    def test_it_can_be_limited_to_peers_beside_prometheus_and_helm_test(self, helm: Helm) -> None:
        rendered = helm.render(gateway={"allowFrom": [PEER]})
        [rule] = rendered.the("NetworkPolicy", NAME)["spec"]["ingress"]
        test, prometheus, client = rule["from"]
        assert test["podSelector"]["matchLabels"].items() <= rendered.the("Pod")["metadata"]["labels"].items()
        assert prometheus["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
        assert client == PEER

    def test_an_ingress_without_hosts_matches_any(self, helm: Helm) -> None:
        [rule] = helm.render(gateway=GATEWAY["Ingress"]).the("Ingress")["spec"]["rules"]
        [path] = rule["http"]["paths"]
        assert "host" not in rule
        assert (path["path"], path["backend"]) == ("/", {"service": {"name": NAME, "port": {"name": "http"}}})

    def test_an_ingress_follows_the_values(self, helm: Helm) -> None:
        ingress = helm.render(gateway=GATEWAY["Ingress with hosts"]).the("Ingress")
        assert ingress["spec"]["ingressClassName"] == "nginx"
        assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["a.example.com", "b.example.com"]
        assert ingress["spec"]["tls"] == [{"hosts": ["a.example.com"], "secretName": "a-tls"}]
        assert ingress["metadata"]["annotations"] == {"nginx.ingress.kubernetes.io/proxy-body-size": "1g"}

    def test_a_route_leads_to_the_service(self, helm: Helm) -> None:
        spec = helm.render(gateway=GATEWAY["HTTPRoute"]).the("HTTPRoute")["spec"]
        assert spec["parentRefs"] == [{"name": "public", "namespace": "speech"}]
        assert spec["hostnames"] == ["a.example.com"]
        [rule] = spec["rules"]
        assert rule["backendRefs"] == [{"name": NAME, "port": SERVER_PORT}]
        assert rule["timeouts"] == {"request": "630s", "backendRequest": "630s"}

    def test_a_route_without_parents_is_rejected(self, helm: Helm) -> None:
        with pytest.raises(HelmFailed, match=r"set gateway\.httpRoute\.parentRefs"):
            helm.render(gateway={"httpRoute": {"enabled": True}})


class TestRights:
    def test_the_files_rules_apply_in_all_namespaces(self, defaults: Rendered) -> None:
        role = f"{RELEASE}-gateway"
        binding = defaults.the("ClusterRoleBinding", role)
        assert defaults.the("ClusterRole", role)["rules"] == yaml.safe_load(RULES.read_text())
        assert binding["roleRef"]["name"] == role
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
        assert pod_of(defaults)["serviceAccountName"] == NAME

    def test_with_namespaces_they_apply_there_alone(self, helm: Helm) -> None:
        gateways = objects_of_gateway(helm.render(namespaces=["speech", "research"]))
        rules = {one["metadata"]["namespace"]: one["rules"] for one in gateways if one["kind"] == "Role"}
        bound = {one["metadata"]["namespace"] for one in gateways if one["kind"] == "RoleBinding"}
        assert rules == dict.fromkeys(("speech", "research"), yaml.safe_load(RULES.read_text()))
        assert bound == set(rules)
        assert not [one for one in gateways if "namespace" not in one["metadata"]]

    def test_an_existing_account_is_bound(self, helm: Helm) -> None:
        rendered = helm.render(gateway={"serviceAccount": {"create": False, "name": "scribe"}})
        policy = rendered.the("ValidatingAdmissionPolicy")["spec"]
        assert pod_of(rendered)["serviceAccountName"] == "scribe"
        assert rendered.the("ClusterRoleBinding", f"{RELEASE}-gateway")["subjects"][0]["name"] == "scribe"
        assert f"system:serviceaccount:{NAMESPACE}:scribe'" in policy["matchConditions"][0]["expression"]


def test_without_it_nothing_of_it_remains(helm: Helm) -> None:
    rendered = helm.render(gateway={"enabled": False}, serviceMonitor={"enabled": True})
    peers = json.loads(rendered.environment()["WHISPER_OPERATOR_ALLOW_FROM"])
    [container] = rendered.the("Pod")["spec"]["containers"]
    assert objects_of_gateway(rendered) == []
    assert len(peers) == 2
    assert re.findall(r"/(\w+)$", "\n".join(container["command"][-2:]), flags=re.MULTILINE) == ["healthz", "metrics"]


def test_without_it_nobody_is_alerted_that_it_is_down(helm: Helm) -> None:
    rule = helm.render(gateway={"enabled": False}, prometheusRule={"enabled": True}).the("PrometheusRule")
    assert [group["name"] for group in rule["spec"]["groups"]] == ["whispermodel", "whisper-operator"]


def test_its_pod_is_placed_by_its_own_values(helm: Helm) -> None:
    rendered = helm.render(gateway=PLACEMENT)
    operator = rendered.the("Deployment")["spec"]["template"]["spec"]
    assert {name: pod_of(rendered)[name] for name in PLACEMENT} == PLACEMENT
    assert not PLACEMENT.keys() & operator.keys()


def test_one_pod_may_be_evicted(defaults: Rendered) -> None:
    budget = defaults.the("PodDisruptionBudget", NAME)["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": SELECTOR}}


def test_its_metrics_keep_the_models_namespace(helm: Helm) -> None:
    rendered = helm.render(serviceMonitor={"enabled": True, "labels": {"release": "prometheus"}})
    monitor, service = rendered.the("ServiceMonitor", NAME), rendered.the("Service", NAME)
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint == {"port": "http", "path": "/metrics", "interval": "30s", "honorLabels": True}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
