"""The chart's values: what is refused, and where they are told of."""

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
    """Yield the path of each value that is no group of values."""
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


_TAKEN_WHOLE = {"resources", "podSecurityContext", "securityContext", "dashboards.labels"}


def described(schema: Json, above: str = "") -> Iterator[str]:
    """Yield the path of each value that the schema knows."""
    for name, node in schema["properties"].items():
        resolved = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if "properties" in resolved:
            yield from described(resolved, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def test_helm_has_nothing_to_complain_of(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART), values={})


def test_the_schema_knows_the_values_that_there_are_and_those_of_parent_charts() -> None:
    assert set(described(SCHEMA)) == {*paths(VALUES), "global"}


def test_the_tests_set_every_value() -> None:
    given = {path for values in OPTIONS.values() for path in _set_in(values)}
    assert set(paths(VALUES)) - given == set()


def _set_in(values: Json, above: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from _set_in(value, f"{above}{name}.")


REFUSED = [
    pytest.param({"replica": 2}, "additional properties 'replica' not allowed", id="a value that is none"),
    pytest.param({"image": {"name": "a"}}, "'/image': additional properties 'name'", id="one further down"),
    pytest.param({"networkPolicy": {"allowFrom": [{"pods": {}}]}}, "'pods' not allowed", id="a peer that is none"),
    pytest.param({"networkPolicy": {"allowFrom": [{}]}}, "minProperties", id="a peer that is everybody"),
    pytest.param({"namespaces": "speech"}, "got string, want array", id="a namespace without a list"),
    pytest.param({"namespaces": ["a", "a"]}, "items at 0 and 1 are equal", id="a namespace twice"),
    pytest.param({"models": [{"name": "a"}]}, "missing property 'spec'", id="a model without a spec"),
    pytest.param({"log": {"level": "loud"}}, "must be one of 'debug', 'info'", id="a level that is none"),
    pytest.param({"prometheusRule": {"runbookUrl": "docs"}}, "does not match pattern", id="a path that is no URL"),
    pytest.param({"fullnameOverride": "a.b"}, "'/fullnameOverride': 'a.b' does not match", id="a name with a dot"),
    pytest.param({"nameOverride": "Ärger"}, "'/nameOverride': 'Ärger' does not match", id="a name with an umlaut"),
    pytest.param({"workers": 0}, "minimum: got 0, want 1", id="no worker"),
]


@pytest.mark.parametrize(("values", "says"), REFUSED)
def test_what_is_no_value_is_refused_by_its_name(helm: Helm, values: Json, says: str) -> None:
    with pytest.raises(HelmFailed) as refusal:
        helm.render(**values)
    assert "values don't meet the specifications of the schema" in str(refusal.value)
    assert says in str(refusal.value)


_LEFT_OUT = {path for path in paths(VALUES) if _value_of(path) in ("", [], {})} | {
    "affinity",
    "dashboards.labels",
    "networkPolicy.prometheus",
    "podSecurityContext",
    "resources",
    "securityContext",
}
"""What may be taken away with null: the rest must be something."""


@pytest.mark.parametrize("path", sorted({*paths(VALUES), *VALUES, "inference.image"}))
def test_null_takes_away_what_may_be_empty_and_is_refused_for_the_rest(helm: Helm, path: str) -> None:
    values: Json = {
        name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")
    }
    *above, last = path.split(".")
    holder = values
    for name in above:
        holder = holder.setdefault(name, {})
    holder[last] = None
    if path in _LEFT_OUT:
        assert all(helm.render(**values).environment().values())
    else:
        with pytest.raises(HelmFailed, match=rf"missing property '{last}'|missing properties .*'{last}'"):
            helm.render(**values)


@pytest.mark.parametrize("release", ["1st", "my.rel"])
def test_a_release_whose_name_no_service_can_have_is_told_what_to_set(helm: Helm, release: str) -> None:
    command = ("template", release, str(CHART), "--kube-version", OLDEST)
    with pytest.raises(
        HelmFailed, match=f"'{release}-whisper-operator', and a Service cannot be: set fullnameOverride"
    ):
        helm.run(*command, values={})
    helm.run(*command, values={"fullnameOverride": "speech"})


def test_a_name_that_is_cut_ends_with_a_letter(helm: Helm) -> None:
    cut = helm.render(fullnameOverride=f"{'a' * 50}---b", nameOverride=f"{'a' * 61}---b")
    assert cut.the("Deployment")["metadata"]["name"] == "a" * 50
    assert cut.the("Deployment")["metadata"]["labels"]["app.kubernetes.io/name"] == "a" * 61


def test_a_model_that_is_listed_twice_is_refused(helm: Helm) -> None:
    model = {"name": "dictation", "spec": {}}
    with pytest.raises(HelmFailed, match="'dictation' is there twice in the namespace 'whisper-system'"):
        helm.render(models=[model, {**model, "namespace": NAMESPACE}])
    helm.render(models=[model, {**model, "namespace": "elsewhere"}])


def test_an_older_kubernetes_is_refused(helm: Helm) -> None:
    with pytest.raises(HelmFailed, match=r"requires kubeVersion: >=1\.31\.0-0"):
        helm.render("--kube-version", "1.30.9")


def test_a_model_that_nobody_would_obey_is_refused(helm: Helm) -> None:
    model = {"name": "dictation", "namespace": "elsewhere", "spec": {}}
    with pytest.raises(HelmFailed, match="nobody would obey 'dictation': its namespace 'elsewhere' is none of"):
        helm.render(namespaces=["speech"], models=[model])


def test_the_readme_is_what_the_values_say(helm: Helm) -> None:
    command = [str(PROGRAMS / "helm-docs"), "--dry-run", "--sort-values-order=file", "--chart-search-root", str(CHART)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert made.strip() == (CHART / "README.md").read_text().strip(), "run 'make chart-docs'"


def test_the_operator_gets_all_its_settings_but_its_identity(helm: Helm) -> None:
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
    assert (settings.allow_from is None) == (values == OPTIONS["no network policies"])
