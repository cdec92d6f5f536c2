"""The chart's values: validation, documentation, and what the operator reads from them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from testing.chart.helm import CHART, NAMESPACE, OLDEST, PROGRAMS, Helm, HelmFailed, Rendered
from testing.chart.options import OPTIONS
from whisper_operator.settings import PREFIX, Settings

Json = dict[str, Any]

VALUES: Json = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text())


def paths(values: Json, above: str = "") -> Iterator[str]:
    """Yield the path of each value, except groups of values."""
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and value and path not in _TAKEN_WHOLE:
            yield from paths(value, f"{path}.")
        else:
            yield path


def _value_of(path: str) -> object:
    found: Any = VALUES
    for name in path.split("."):
        found = found[name]
    return found


_OF_PODS = {"resources", "podSecurityContext", "securityContext"}
_TAKEN_WHOLE = {*_OF_PODS, *(f"gateway.{name}" for name in _OF_PODS), "dashboards.labels"}


def schema_paths(schema: Json, above: str = "") -> Iterator[str]:
    """Yield the path of each value in the schema."""
    for name, node in schema["properties"].items():
        resolved = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if "properties" in resolved:
            yield from schema_paths(resolved, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def test_helm_lint_passes(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART), values={})


def test_the_schema_covers_all_values_and_global() -> None:
    assert set(schema_paths(SCHEMA)) == {*paths(VALUES), "global"}


def test_the_options_set_every_value() -> None:
    given = {path for values in OPTIONS.values() for path in _set_in(values)}
    assert set(paths(VALUES)) - given == set()


def _set_in(values: Json, above: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from _set_in(value, f"{above}{name}.")


INVALID = [
    pytest.param({"replica": 2}, "additional properties 'replica' not allowed", id="unknown value"),
    pytest.param({"image": {"name": "a"}}, "'/image': additional properties 'name'", id="unknown nested value"),
    pytest.param({"networkPolicy": {"allowFrom": [{"pods": {}}]}}, "'pods' not allowed", id="invalid peer"),
    pytest.param({"networkPolicy": {"allowFrom": [{}]}}, "minProperties", id="empty peer, which would match everybody"),
    pytest.param({"namespaces": "speech"}, "got string, want array", id="namespaces not a list"),
    pytest.param({"namespaces": ["a", "a"]}, "items at 0 and 1 are equal", id="duplicate namespace"),
    pytest.param({"models": [{"name": "a"}]}, "missing property 'spec'", id="model without a spec"),
    pytest.param({"log": {"level": "loud"}}, "must be one of 'debug', 'info'", id="unknown log level"),
    pytest.param({"prometheusRule": {"runbookUrl": "docs"}}, "does not match pattern", id="not a URL"),
    pytest.param({"fullnameOverride": "a.b"}, "'/fullnameOverride': 'a.b' does not match", id="name with a dot"),
    pytest.param({"nameOverride": "Ärger"}, "'/nameOverride': 'Ärger' does not match", id="name with an umlaut"),
    pytest.param({"workers": 0}, "minimum: got 0, want 1", id="no workers"),
    pytest.param({"gateway": {"name": "a.b"}}, "'/gateway/name': 'a.b' does not match", id="gateway with a dot"),
    pytest.param({"gateway": {"drain": "90"}}, "'/gateway/drain': '90' does not match", id="duration without a unit"),
    pytest.param({"gateway": {"maxAudioBytes": "1GB"}}, "'1GB' does not match", id="size with a wrong unit"),
    pytest.param({"gateway": {"replicas": 2}}, "additional properties 'replicas'", id="several gateways"),
]


@pytest.mark.parametrize(("values", "message"), INVALID)
def test_an_invalid_value_is_rejected_by_name(helm: Helm, values: Json, message: str) -> None:
    with pytest.raises(HelmFailed) as rejection:
        helm.render(**values)
    assert "values don't meet the specifications of the schema" in str(rejection.value)
    assert message in str(rejection.value)


_NULLABLE = {path for path in paths(VALUES) if _value_of(path) in ("", [], {})} | {
    "networkPolicy.prometheus",
    *_TAKEN_WHOLE,
}
"""Values that null may remove; the others are required."""


_GROUPS = {*VALUES, "inference.image", *(f"gateway.{name}" for name in VALUES["gateway"])}


@pytest.mark.parametrize("path", sorted({*paths(VALUES), *_GROUPS}))
def test_null_removes_optional_values_and_is_rejected_for_required_ones(helm: Helm, path: str) -> None:
    values: Json = {
        name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")
    }
    *above, last = path.split(".")
    holder = values
    for name in above:
        holder = holder.setdefault(name, {})
    holder[last] = None
    if path in _NULLABLE:
        assert all(helm.render(**values).environment().values())
    else:
        with pytest.raises(HelmFailed, match=rf"missing property '{last}'|missing properties .*'{last}'"):
            helm.render(**values)


@pytest.mark.parametrize("release", ["1st", "my.rel"])
def test_an_invalid_service_name_is_rejected_with_instructions(helm: Helm, release: str) -> None:
    command = ("template", release, str(CHART), "--kube-version", OLDEST)
    with pytest.raises(
        HelmFailed, match=f"'{release}-whisper-operator', which is not a valid Service name: set fullnameOverride"
    ):
        helm.run(*command, values={})
    helm.run(*command, values={"fullnameOverride": "speech"})


def test_a_truncated_name_does_not_end_with_a_hyphen(helm: Helm) -> None:
    cut = helm.render(fullnameOverride=f"{'a' * 50}---b", nameOverride=f"{'a' * 61}---b")
    assert cut.the("Deployment")["metadata"]["name"] == "a" * 50
    assert cut.the("Deployment")["metadata"]["labels"]["app.kubernetes.io/name"] == "a" * 61


def test_a_duplicate_model_is_rejected(helm: Helm) -> None:
    model = {"name": "dictation", "spec": {}}
    with pytest.raises(HelmFailed, match="'dictation' is listed twice in namespace 'whisper-system'"):
        helm.render(models=[model, {**model, "namespace": NAMESPACE}])
    helm.render(models=[model, {**model, "namespace": "elsewhere"}])


def test_an_older_kubernetes_is_rejected(helm: Helm) -> None:
    with pytest.raises(HelmFailed, match=r"requires kubeVersion: >=1\.31\.0-0"):
        helm.render("--kube-version", "1.30.9")


def test_a_model_outside_the_managed_namespaces_is_rejected(helm: Helm) -> None:
    model = {"name": "dictation", "namespace": "elsewhere", "spec": {}}
    with pytest.raises(
        HelmFailed, match="no operator would manage 'dictation': its namespace 'elsewhere' is not listed in"
    ):
        helm.render(namespaces=["speech"], models=[model])


def test_the_readme_is_up_to_date(helm: Helm) -> None:
    command = [str(PROGRAMS / "helm-docs"), "--dry-run", "--sort-values-order=file", "--chart-search-root", str(CHART)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert made.strip() == (CHART / "README.md").read_text().strip(), "run 'make chart-docs'"


def test_the_operator_gets_all_settings_except_its_identity(helm: Helm) -> None:
    rendered = helm.render(namespaces=["speech"])
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert settings - set(rendered.environment()) == {f"{PREFIX}IDENTITY"}


def test_the_operator_reads_its_settings(rendered: Rendered, monkeypatch: pytest.MonkeyPatch, values: Json) -> None:
    for name, value in rendered.environment().items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.namespaces == tuple(values.get("namespaces", ()))
    of_pods = {name: value for name, value in values.get("inference", {}).items() if name != "image"}
    assert settings.pod_defaults.model_dump(mode="json", exclude_unset=True) == of_pods
    assert settings.lease_namespace == NAMESPACE
    assert (settings.allow_from is None) == (values.get("networkPolicy", {}).get("enabled") is False)
