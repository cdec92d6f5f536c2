"""The end-to-end tests stay on one cluster for tests, and their diagnostics contain no secrets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from e2e import evidence
from e2e.cluster import Cluster, pinned, refuse_unmarked
from tools.clusters import base

needs_kubectl = pytest.mark.skipif(
    not os.access(base.BINARIES / "kubectl", os.X_OK) and os.environ.get("CI") != "true",
    reason="kubectl is not installed: run 'make tools'",
)


def kubeconfig(path: Path, *contexts: str, current: str | None = None, token: str = "a-token") -> Path:
    """Write a kubeconfig with contexts, each with a cluster and a user of the same name."""
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example"}} for name in contexts],
        "users": [{"name": name, "user": {"token": token}} for name in contexts],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in contexts],
    }
    path.write_text(yaml.safe_dump(content | ({"current-context": current} if current else {})))
    return path


def servers(path: Path) -> list[str]:
    return [one["cluster"]["server"] for one in yaml.safe_load(path.read_text())["clusters"]]


@pytest.mark.parametrize("context", ["production", "my-whisper-e2e-local", "kind-other", ""])
def test_an_unmarked_context_is_refused(context: str) -> None:
    with pytest.raises(PermissionError, match="must begin with whisper-e2e- or kind-whisper-e2e"):
        refuse_unmarked(context)


@needs_kubectl
def test_a_refused_context_leaves_no_kubeconfig(tmp_path: Path) -> None:
    named = kubeconfig(tmp_path / "config", "whisper-e2e-a", "production", current="production")
    with pytest.raises(PermissionError, match="'production'"):
        pinned(str(named), tmp_path)
    assert not (tmp_path / "kubeconfig").exists()


@needs_kubectl
def test_a_pinned_context_is_independent_of_the_current_one(tmp_path: Path) -> None:
    named = kubeconfig(tmp_path / "config", "whisper-e2e-a", "production", current="whisper-e2e-a")
    own = pinned(str(named), tmp_path)
    kubeconfig(named, "whisper-e2e-a", "production", current="production")
    assert servers(own) == ["https://whisper-e2e-a.example"]
    assert yaml.safe_load(own.read_text())["current-context"] == "whisper-e2e-a"
    assert yaml.safe_load(own.read_text())["users"][0]["user"] == {"token": "a-token"}
    assert own.stat().st_mode & 0o777 == 0o600


def test_the_environment_cannot_redirect_helm(fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELM_KUBEAPISERVER", "https://production.example")
    monkeypatch.setenv("KUBECONFIG", "/production")
    environment = fake_cluster.environment()
    assert environment["KUBECONFIG"] == str(fake_cluster.kubeconfig)
    assert "HELM_KUBEAPISERVER" not in environment


class FakeCluster(Cluster):
    """A cluster in which kubectl knows only some kinds, and records its commands."""

    asked: list[tuple[str, ...]]

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = 60) -> str:
        self.asked.append(arguments)
        kinds = self.kinds_of(arguments)
        assert "whispermodels" not in kinds, "error: the server doesn't have a resource type 'whispermodels'"
        return f"answer about {kinds}"

    @staticmethod
    def kinds_of(arguments: Sequence[str]) -> list[str]:
        at = 3 if "--namespace" in arguments else 1
        return arguments[at].split(",")


@pytest.fixture
def fake_cluster(tmp_path: Path) -> FakeCluster:
    def answer(request: httpx.Request) -> httpx.Response:
        marked = request.url.params.get("labelSelector") == "whisper-e2e=story"
        names = ["story-1"] if marked else []
        return httpx.Response(200, json={"items": [{"metadata": {"name": name}} for name in names]})

    client = httpx.Client(base_url="http://cluster", transport=httpx.MockTransport(answer))
    cluster = FakeCluster(tmp_path / "none", "whisper-e2e-local", tmp_path, client)
    object.__setattr__(cluster, "asked", [])
    return cluster


def test_only_names_of_secrets_are_collected(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    evidence.collect(fake_cluster, tmp_path)
    outputs = [one[-1] for one in fake_cluster.asked if "secrets" in fake_cluster.kinds_of(one)]
    assert len(outputs) == 3
    assert all(output.startswith("--output=go-template=") for output in outputs)
    assert not [output for output in outputs if ".data." in output or "$_}" in output or "index" in output]


def test_only_namespaces_of_tests_and_releases_are_collected(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    evidence.collect(fake_cluster, tmp_path)
    assert not [one for one in fake_cluster.asked if "--all-namespaces" in one or "-A" in one]
    named = {one[one.index("--namespace") + 1] for one in fake_cluster.asked if "--namespace" in one}
    assert named == {"default", "whisper", "story-1"}
