"""The operator's settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from whisper_operator import settings as module
from whisper_operator.settings import Settings
from whispermodel.spec import Pod

PREFIX = "WHISPER_OPERATOR_"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start without settings, outside a cluster."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(module, "_OWN_NAMESPACE", tmp_path / "namespace")


def given(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)
    return Settings()


def test_defaults() -> None:
    settings = Settings()
    assert (settings.namespaces, settings.workers) == ((), 64)
    assert (settings.health_port, settings.metrics_port) == (8080, 8081)
    assert settings.image == "whisper-inference:0.1.0"


@pytest.mark.parametrize(
    ("text", "namespaces"),
    [
        ("speech", ("speech",)),
        ("speech,media", ("speech", "media")),
        (" speech , media,", ("speech", "media")),
        ("", ()),
    ],
)
def test_namespaces_are_comma_separated(
    monkeypatch: pytest.MonkeyPatch, text: str, namespaces: tuple[str, ...]
) -> None:
    assert given(monkeypatch, namespaces=text).namespaces == namespaces


def test_allow_from_is_a_json_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().allow_from is None
    assert given(monkeypatch, allow_from="").allow_from is None
    assert given(monkeypatch, allow_from="[]").allow_from == ()
    assert given(monkeypatch, allow_from='[{"podSelector": {}}]').allow_from == ({"podSelector": {}},)


def test_pod_defaults_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().pod_defaults == Pod()
    assert given(monkeypatch, pod_defaults="").pod_defaults == Pod()
    chosen = given(monkeypatch, pod_defaults='{"nodeSelector": {"gpu": "yes"}}').pod_defaults
    assert chosen == Pod(node_selector={"gpu": "yes"})


def test_empty_value_means_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in Settings.model_fields if name != "identity"]
    assert given(monkeypatch, **dict.fromkeys(names, "")).model_dump(include={*names}) == Settings().model_dump(
        include={*names}
    )
    assert given(monkeypatch, workers="", image="").image == "whisper-inference:0.1.0"


def test_command_line_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_OPERATOR_NAMESPACES", "media")
    assert Settings(namespaces=("speech",)).namespaces == ("speech",)


def test_lease_namespace_defaults_to_the_operators_own(tmp_path: Path) -> None:
    assert Settings().lease_namespace == "default"
    (tmp_path / "namespace").write_text("whisper-system\n")
    assert Settings().lease_namespace == "whisper-system"


def test_identity_is_unique() -> None:
    assert Settings().identity != Settings().identity


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", "0"),
        ("workers", "many"),
        ("metrics_port", "70000"),
        ("health_port", "-1"),
        ("image_pull_policy", "Sometimes"),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("allow_from", "everybody"),
        ("allow_from", '{"podSelector": {}}'),
        ("allow_from", '[{"selector": {}}]'),
        ("allow_from", "[{}]"),
        ("allow_from", '[{"podSelector": 1}]'),
        ("allow_from", '[{"podSelector": null}]'),
        ("allow_from", '[{"namespaceSelector": {"name": "media"}}]'),
        ("allow_from", '[{"ipBlock": "10.0.0.0/8"}]'),
        ("allow_from", "[" * 3000),
        ("pod_defaults", "[" * 3000),
        ("pod_defaults", "a node"),
        ("pod_defaults", '{"nodes": []}'),
        ("pod_defaults", '{"image": "a"}'),
    ],
)
def test_invalid_value_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        given(monkeypatch, **{name: value})
    assert {error["loc"][0] for error in refused.value.errors()} == {name}
