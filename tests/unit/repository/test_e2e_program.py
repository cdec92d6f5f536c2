"""The choice of a cluster for `make e2e`, `make cluster` and `make cluster-down`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.clusters import choice
from tools.clusters.base import ProviderFailed
from tools.clusters.kind.cluster import KindCluster
from tools.clusters.local.cluster import LocalCluster


@pytest.fixture
def kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr(choice, "KUBECONFIG", path)
    return path


@pytest.mark.parametrize("provider", [KindCluster, LocalCluster])
def test_a_running_cluster_is_preferred(kubeconfig: Path, provider: type[KindCluster | LocalCluster]) -> None:
    kubeconfig.write_text(f"current-context: {provider.context}\n")
    assert isinstance(choice.provider_for_this_machine(), provider)


def test_every_reason_against_a_local_cluster_is_reported(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KindCluster, "unavailable_reason", lambda self: "it needs docker")
    monkeypatch.setattr(LocalCluster, "unavailable_reason", lambda self: "it needs root")
    with pytest.raises(ProviderFailed, match=r"(?s)it needs docker.*it needs root.*KUBECONFIG"):
        choice.provider_for_this_machine()
