"""The objects that the chart renders."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

import whisper_operator
from testing.api_server import CRD as CRD_FILE
from testing.chart.helm import CHART, NAMESPACE, OLDEST, RELEASE, Helm, HelmFailed, Rendered, loaded
from testing.chart.options import MODEL, OPTIONS, PEER
from testing.operator_process import RULES, leader_rules
from whisper_inference.api.auth import KeyRing, Scope
from whisper_operator.resources.identity import Identity
from whisper_operator.resources.keys_secret import keys_secret, operator_key

Json = dict[str, Any]

NAME = RELEASE
SELECTOR = {"app.kubernetes.io/name": "whisper-operator", "app.kubernetes.io/instance": RELEASE}
GATEWAY_SELECTOR = {"app.kubernetes.io/name": "whisper-gateway", "app.kubernetes.io/instance": RELEASE}


@pytest.fixture
def defaults(helm: Helm) -> Rendered:
    return helm.render()


def matches(selector: Json, labels: Json) -> bool:
    return selector["matchLabels"].items() <= labels.items()


def operators(objects: list[Json]) -> list[Json]:
    """Return the objects that are not the gateway's."""
    return [one for one in objects if one["metadata"]["labels"]["app.kubernetes.io/name"] != "whisper-gateway"]


def image_of(pod: Json) -> str:
    return pod["spec"]["containers"][0]["image"]


def test_monitoring_is_disabled_by_default(defaults: Rendered) -> None:
    assert {one["apiVersion"].partition("/")[0] for one in defaults.objects} == {
        "v1",
        "apps",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "networking.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
    }


def test_every_object_is_labelled_and_has_a_unique_name(rendered: Rendered) -> None:
    ours = [one for one in rendered.objects if one["metadata"]["name"] not in (f"{RELEASE}-a", f"{RELEASE}-b")]
    assert {one["metadata"]["labels"]["app.kubernetes.io/managed-by"] for one in ours} == {"Helm"}
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in rendered.objects]
    assert len(set(names)) == len(names)


def test_common_labels_are_on_every_object_and_leave_selectors_alone(helm: Helm) -> None:
    rendered = helm.render(commonLabels={"team": "speech", "app.kubernetes.io/name": "mine"})
    assert {one["metadata"]["labels"]["team"] for one in rendered.objects} == {"speech"}
    deployment = rendered.the("Deployment")
    assert deployment["spec"]["selector"]["matchLabels"] == SELECTOR
    assert deployment["spec"]["template"]["metadata"]["labels"].items() >= {**SELECTOR, "team": "speech"}.items()


def test_a_numeric_namespace_name_stays_a_string(helm: Helm) -> None:
    output = helm.run("template", RELEASE, str(CHART), "--namespace", "2026", "--kube-version", OLDEST, values={})
    rendered = loaded(output)
    named = [one["metadata"]["namespace"] for one in rendered.objects if "namespace" in one["metadata"]]
    assert set(named) == {"2026"}
    assert rendered.environment()["WHISPER_OPERATOR_LEASE_NAMESPACE"] == "2026"


@pytest.mark.parametrize("name", ["on", "null", "y"])
def test_names_that_yaml_would_convert_stay_strings(helm: Helm, name: str) -> None:
    options = {key: {"enabled": True} for key in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")}
    account = {"serviceAccount": {"name": name}, "priorityClassName": name}
    model = MODEL | {"name": "null"}
    rendered = [
        helm.render(
            fullnameOverride=name, nameOverride=name, models=[model], namespaces=namespaces, **options, **account
        )
        for namespaces in ([], [NAMESPACE])
    ]
    for one in (one for objects in rendered for one in objects.objects):
        assert isinstance(one["metadata"]["name"], str)
        assert all(isinstance(label, str) for label in one["metadata"]["labels"].values())
        referred = [one.get("roleRef", {}).get("name", ""), *(subject["name"] for subject in one.get("subjects", ()))]
        assert all(isinstance(text, str) for text in referred)
    pod = rendered[0].the("Deployment")["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == (name, name)
    assert rendered[0].environment()["WHISPER_OPERATOR_LEASE_NAME"] == name
    assert rendered[0].the("WhisperModel")["metadata"]["name"] == "null"


class TestCrd:
    def test_the_chart_has_a_copy_of_the_file_because_flux_drops_symlinks(self) -> None:
        copy = CHART / "files" / "whispermodels.yaml"
        assert not copy.is_symlink()
        assert copy.read_bytes() == CRD_FILE.read_bytes(), "run 'make chart-crd'"

    def test_it_is_the_repositorys_crd(self, defaults: Rendered) -> None:
        crd = defaults.the("CustomResourceDefinition")
        metadata = crd["metadata"]
        assert metadata.pop("annotations") == {"helm.sh/resource-policy": "keep"}
        del metadata["labels"]
        assert crd == yaml.safe_load(CRD_FILE.read_text())

    @pytest.mark.parametrize(
        "text", ["", "../../../../crds/whispermodels.yaml"], ids=["empty", "the target of a symlink"]
    )
    def test_a_chart_without_it_is_rejected(self, helm: Helm, tmp_path: Path, text: str) -> None:
        chart = Path(shutil.copytree(CHART, tmp_path / "chart"))
        (chart / "files" / "whispermodels.yaml").write_text(text)
        with pytest.raises(HelmFailed, match=r"files/whispermodels\.yaml is missing from this copy of the chart"):
            helm.run("template", RELEASE, str(chart), "--kube-version", OLDEST)

    def test_it_is_deleted_with_the_release_unless_kept(self, helm: Helm) -> None:
        crd = helm.render(crds={"keep": False}).the("CustomResourceDefinition")
        assert "annotations" not in crd["metadata"]

    def test_it_can_be_left_to_another_release(self, helm: Helm) -> None:
        assert helm.render(crds={"enabled": False}).of("CustomResourceDefinition") == []


class TestRights:
    def test_the_files_rules_apply_in_all_namespaces(self, defaults: Rendered) -> None:
        assert defaults.the("ClusterRole", NAME)["rules"] == yaml.safe_load(RULES.read_text())
        leader = defaults.the("Role")
        assert (leader["metadata"]["namespace"], leader["rules"]) == (NAMESPACE, leader_rules(NAME))
        assert defaults.the("RoleBinding")["roleRef"]["name"] == leader["metadata"]["name"]
        binding = defaults.the("ClusterRoleBinding", NAME)
        assert binding["roleRef"]["name"] == NAME
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]

    def test_namespaced_rules_apply_there_and_the_lease_stays_with_the_release(self, helm: Helm) -> None:
        rendered = helm.render(namespaces=["speech", "research"], leaseName="scribe")
        roles = operators(rendered.of("Role"))
        rules = {(one["metadata"]["namespace"], one["metadata"]["name"]): one["rules"] for one in roles}
        the_file = yaml.safe_load(RULES.read_text())
        assert rules == {
            ("speech", NAME): the_file,
            ("research", NAME): the_file,
            (NAMESPACE, f"{NAME}-leader"): leader_rules("scribe"),
        }
        bindings = operators(rendered.of("RoleBinding"))
        bound = {(one["metadata"]["namespace"], one["roleRef"]["name"]) for one in bindings}
        assert bound == set(rules)

    def test_with_namespaces_only_the_crd_is_cluster_scoped(self, helm: Helm) -> None:
        rendered = helm.render(namespaces=["speech"])
        everywhere = {one["kind"] for one in rendered.objects if "namespace" not in one["metadata"]}
        assert everywhere == {"CustomResourceDefinition"}

    def test_roles_can_be_managed_elsewhere(self, helm: Helm) -> None:
        kinds = {one["kind"] for one in helm.render(rbac={"create": False}, namespaces=["speech"]).objects}
        assert not {kind for kind in kinds if "Role" in kind}

    def test_view_and_edit_include_models(self, defaults: Rendered) -> None:
        view, edit = (defaults.the("ClusterRole", f"{NAME}-{verb}") for verb in ("view", "edit"))
        aggregate = "rbac.authorization.k8s.io/aggregate-to-"
        assert view["metadata"]["labels"][f"{aggregate}view"] == "true"
        assert f"{aggregate}view" not in edit["metadata"]["labels"]
        assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
        assert all("whispermodels/status" not in rule["resources"] for rule in edit["rules"])

    def test_the_pod_runs_as_the_bound_account(self, helm: Helm) -> None:
        rendered = helm.render(serviceAccount={"create": False, "name": "scribe"})
        assert operators(rendered.of("ServiceAccount")) == []
        assert rendered.the("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "scribe"
        assert rendered.the("ClusterRoleBinding", NAME)["subjects"][0]["name"] == "scribe"


class TestNetworkPolicies:
    def test_models_accept_the_operator_the_gateway_and_prometheus(self, defaults: Rendered) -> None:
        peers = json.loads(defaults.environment()["WHISPER_OPERATOR_ALLOW_FROM"])
        here = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
        assert peers == [
            {"namespaceSelector": here, "podSelector": {"matchLabels": SELECTOR}},
            {"namespaceSelector": here, "podSelector": {"matchLabels": GATEWAY_SELECTOR}},
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}},
        ]
        for peer, name in zip(peers, ("operator", "gateway"), strict=False):
            [pod] = [one for one in defaults.pods() if one["spec"]["containers"][0]["name"] == name]
            assert matches(peer["podSelector"], pod["metadata"]["labels"])

    def test_additional_peers_are_appended(self, helm: Helm) -> None:
        rendered = helm.render(networkPolicy={"allowFrom": [PEER], "prometheus": []})
        peers = json.loads(rendered.environment()["WHISPER_OPERATOR_ALLOW_FROM"])
        assert len(peers) == 3
        assert peers[2] == PEER

    def test_only_prometheus_reaches_the_operators_metrics(self, defaults: Rendered) -> None:
        spec = defaults.the("NetworkPolicy", NAME)["spec"]
        test, prometheus = spec["ingress"]
        assert (spec["policyTypes"], spec["podSelector"]) == (["Ingress"], {"matchLabels": SELECTOR})
        assert [port["port"] for port in prometheus["ports"]] == ["metrics"]
        assert prometheus["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
        assert matches(test["from"][0]["podSelector"], defaults.the("Pod")["metadata"]["labels"])

    def test_without_prometheus_no_rule_allows_everyone(self, helm: Helm) -> None:
        [rule] = helm.render(networkPolicy={"prometheus": []}).the("NetworkPolicy", NAME)["spec"]["ingress"]
        assert rule["from"]

    def test_they_can_be_disabled(self, helm: Helm) -> None:
        rendered = helm.render(networkPolicy={"enabled": False})
        assert rendered.of("NetworkPolicy") == []
        assert "WHISPER_OPERATOR_ALLOW_FROM" not in rendered.environment()


class TestOperatorsPods:
    def test_one_at_a_time_may_be_evicted(self, defaults: Rendered) -> None:
        assert defaults.the("PodDisruptionBudget", NAME)["spec"] == {
            "maxUnavailable": 1,
            "selector": {"matchLabels": SELECTOR},
        }

    def test_they_spread_across_zones_and_nodes(self, defaults: Rendered) -> None:
        spread = defaults.the("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        assert all(one["labelSelector"] == {"matchLabels": SELECTOR} for one in spread)

    def test_a_custom_spread_selects_them_by_default(self, helm: Helm) -> None:
        rendered = helm.render(**OPTIONS["custom spread"])
        spread = rendered.the("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [one["labelSelector"]["matchLabels"] for one in spread] == [SELECTOR, {"a": "b"}]

    def test_the_selector_does_not_match_the_helm_test_pod(self, defaults: Rendered) -> None:
        assert not matches({"matchLabels": SELECTOR}, defaults.the("Pod")["metadata"]["labels"])

    def test_the_service_selects_them(self, defaults: Rendered) -> None:
        service = defaults.the("Service", NAME)["spec"]
        [container] = defaults.the("Deployment")["spec"]["template"]["spec"]["containers"]
        assert service["selector"] == SELECTOR
        assert {port["targetPort"] for port in service["ports"]} == {port["name"] for port in container["ports"]}

    def test_helm_test_calls_that_service(self, defaults: Rendered) -> None:
        service = defaults.the("Service", NAME)
        [container] = defaults.the("Pod")["spec"]["containers"]
        host = f"{service['metadata']['name']}.{NAMESPACE}.svc"
        ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
        expected = [f"http://{host}:{ports['health']}/healthz", f"http://{host}:{ports['metrics']}/metrics"]
        assert container["command"][-3:-1] == expected

    def test_the_settings_match_the_container_ports(self, defaults: Rendered) -> None:
        [container] = defaults.the("Deployment")["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        given = defaults.environment()
        assert ports == {name: given[f"WHISPER_OPERATOR_{name.upper()}_PORT"] for name in ("metrics", "health")}

    def test_a_digest_takes_precedence_over_a_tag(self, helm: Helm) -> None:
        image = {"repository": "registry.example.com/operator", "tag": "1.2"}
        tagged, pinned = helm.render(image=image), helm.render(image=image | {"digest": f"sha256:{'0' * 64}"})
        images = [
            {image_of(pod) for pod in one.pods()} - {image_of(one.the("StatefulSet")["spec"]["template"])}
            for one in (tagged, pinned)
        ]
        pin = f"registry.example.com/operator@sha256:{'0' * 64}"
        assert images == [{"registry.example.com/operator:1.2"}, {pin}]

    def test_the_images_have_the_operators_version(self, defaults: Rendered) -> None:
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        assert version == whisper_operator.__version__
        assert defaults.environment()["WHISPER_OPERATOR_IMAGE"] == f"whisper-inference:{version}"
        assert {image_of(pod) for pod in defaults.pods()} == {
            f"whisper-operator:{version}",
            f"whisper-gateway:{version}",
        }


class TestKeys:
    def test_they_equal_those_that_the_operator_creates(self, defaults: Rendered) -> None:
        secret = defaults.the("Secret")
        operator, client = (base64.b64decode(secret["data"][entry]).decode() for entry in ("operator", "client"))
        theirs = cast("Json", keys_secret(NAMESPACE, operator=operator, client=client))
        assert secret["metadata"]["name"] == theirs["metadata"]["name"]
        ours, made = (yaml.safe_load(base64.b64decode(one["data"]["keys.yaml"])) for one in (secret, theirs))
        assert ours == made
        assert operator_key(secret) == operator

    def test_servers_accept_both(self, defaults: Rendered, tmp_path: Path) -> None:
        data = {name: base64.b64decode(value) for name, value in defaults.the("Secret")["data"].items()}
        (tmp_path / "keys.yaml").write_bytes(data["keys.yaml"])
        ring = KeyRing(tmp_path / "keys.yaml")
        assert ring.authorise(f"Bearer {data['operator'].decode()}", Scope.OPERATOR).name == "whisper-operator"
        assert ring.authorise(f"Bearer {data['client'].decode()}", Scope.CONTROL).name == "client"

    def test_each_rendering_generates_new_ones(self, helm: Helm) -> None:
        first, second = (helm.render().the("Secret")["data"] for _ in range(2))
        assert not set(first.values()) & set(second.values())


class TestModels:
    def test_each_becomes_a_whispermodel(self, helm: Helm) -> None:
        other = MODEL | {"name": "captions", "namespace": "speech", "annotations": {"helm.sh/resource-policy": "keep"}}
        dictation, captions = helm.render(models=[MODEL, other]).of("WhisperModel")
        assert (dictation["metadata"]["name"], dictation["metadata"]["namespace"]) == ("dictation", NAMESPACE)
        assert dictation["spec"] == MODEL["spec"]
        assert captions["metadata"]["namespace"] == "speech"
        assert captions["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}

    def test_their_labels_do_not_match_the_operators_selector(self, helm: Helm) -> None:
        model = helm.render(models=[MODEL | {"labels": {"team": "speech"}}]).the("WhisperModel")
        assert model["metadata"]["labels"]["team"] == "speech"
        assert "app.kubernetes.io/name" not in model["metadata"]["labels"]


class TestMonitoring:
    def test_the_operators_metrics_keep_the_models_namespace(self, helm: Helm) -> None:
        rendered = helm.render(serviceMonitor={"enabled": True, "labels": {"release": "prometheus"}})
        monitor, service = rendered.the("ServiceMonitor", NAME), rendered.the("Service", NAME)
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["honorLabels"] is True
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert matches(monitor["spec"]["selector"], service["metadata"]["labels"])
        assert monitor["metadata"]["labels"]["release"] == "prometheus"

    @pytest.mark.parametrize(
        ("namespaces", "where"), [([], {"any": True}), (["a", "b"], {"matchNames": ["a", "b"]})], ids=["all", "some"]
    )
    def test_models_are_discovered_in_the_managed_namespaces(
        self, helm: Helm, namespaces: list[str], where: Json
    ) -> None:
        spec = helm.render(podMonitor={"enabled": True}, namespaces=namespaces).the("PodMonitor")["spec"]
        labels = cast("Json", Identity("speech", "base", "uid").labels)
        assert spec["namespaceSelector"] == where
        assert matches(spec["selector"], labels)

    def test_the_alerts_match_the_file(self, helm: Helm) -> None:
        rule = helm.render(prometheusRule={"enabled": True}).the("PrometheusRule")
        assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())

    def test_each_alert_links_to_its_runbook(self, helm: Helm) -> None:
        rule = helm.render(**OPTIONS["alerts with runbooks"]).the("PrometheusRule")
        rules = [rule for group in rule["spec"]["groups"] for rule in group["rules"]]
        assert rules
        for one in rules:
            assert one["annotations"]["runbook_url"] == f"https://example.com/runbooks/{one['alert']}.md"

    def test_the_dashboards_match_the_files(self, helm: Helm) -> None:
        maps = helm.render(dashboards={"enabled": True}).of("ConfigMap")
        files = {path.name: path.read_text() for path in (CHART / "files" / "dashboards").glob("*.json")}
        assert {name: text.strip() for one in maps for name, text in one["data"].items()} == {
            name: text.strip() for name, text in files.items()
        }
        assert files
        assert {one["metadata"]["labels"]["grafana_dashboard"] for one in maps} == {"1"}


def test_extra_objects_are_rendered_as_templates(helm: Helm) -> None:
    names = [one["metadata"]["name"] for one in helm.render(**OPTIONS["extra objects"]).of("ConfigMap")]
    assert names == [f"{RELEASE}-a", f"{RELEASE}-b"]
