"""The stories stay with one cluster that is for tests, and tell no secrets of it when one fails."""

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
    reason="there is no kubectl: run 'make tools'",
)


def kubeconfig(path: Path, *contexts: str, current: str | None = None, token: str = "a-token") -> Path:
    """Write a kubeconfig with contexts, of which each has a cluster and a user of its name."""
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
def test_a_cluster_that_is_not_marked_is_refused(context: str) -> None:
    with pytest.raises(PermissionError, match="would have to begin with whisper-e2e- or kind-whisper-e2e"):
        refuse_unmarked(context)


@needs_kubectl
def test_an_unmarked_context_is_refused_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    named = kubeconfig(tmp_path / "config", "whisper-e2e-a", "production", current="production")
    with pytest.raises(PermissionError, match="'production'"):
        pinned(str(named), tmp_path)
    assert not (tmp_path / "kubeconfig").exists()


@needs_kubectl
def test_a_pinned_cluster_stays_when_another_context_becomes_the_current_one(tmp_path: Path) -> None:
    named = kubeconfig(tmp_path / "config", "whisper-e2e-a", "production", current="whisper-e2e-a")
    own = pinned(str(named), tmp_path)
    kubeconfig(named, "whisper-e2e-a", "production", current="production")
    assert servers(own) == ["https://whisper-e2e-a.example"]
    assert yaml.safe_load(own.read_text())["current-context"] == "whisper-e2e-a"
    assert yaml.safe_load(own.read_text())["users"][0]["user"] == {"token": "a-token"}
    assert own.stat().st_mode & 0o777 == 0o600


def test_nothing_in_the_environment_leads_helm_elsewhere(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELM_KUBEAPISERVER", "https://production.example")
    monkeypatch.setenv("KUBECONFIG", "/production")
    environment = answering.environment()
    assert environment["KUBECONFIG"] == str(answering.kubeconfig)
    assert "HELM_KUBEAPISERVER" not in environment


class Answering(Cluster):
    """A cluster that kubectl knows some kinds of; what it is asked is kept."""

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
def answering(tmp_path: Path) -> Answering:
    def answer(request: httpx.Request) -> httpx.Response:
        marked = request.url.params.get("labelSelector") == "whisper-e2e=story"
        names = ["story-1"] if marked else []
        return httpx.Response(200, json={"items": [{"metadata": {"name": name}} for name in names]})

    client = httpx.Client(base_url="http://cluster", transport=httpx.MockTransport(answer))
    cluster = Answering(tmp_path / "none", "whisper-e2e-local", tmp_path, client)
    object.__setattr__(cluster, "asked", [])
    return cluster


def test_of_secrets_only_names_are_kept(answering: Answering, tmp_path: Path) -> None:
    evidence.collect(answering, tmp_path)
    outputs = [one[-1] for one in answering.asked if "secrets" in answering.kinds_of(one)]
    assert len(outputs) == 3
    assert all(output.startswith("--output=go-template=") for output in outputs)
    assert not [output for output in outputs if ".data." in output or "$_}" in output or "index" in output]


def test_only_namespaces_of_stories_and_releases_are_asked_for(answering: Answering, tmp_path: Path) -> None:
    evidence.collect(answering, tmp_path)
    assert not [one for one in answering.asked if "--all-namespaces" in one or "-A" in one]
    named = {one[one.index("--namespace") + 1] for one in answering.asked if "--namespace" in one}
    assert named == {"default", "whisper", "story-1"}
